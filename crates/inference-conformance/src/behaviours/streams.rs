//! Streams are lazy, bounded, conclusive, and give back what they held.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context as TaskContext, Poll, Wake, Waker};

use inference_core::{CapabilityId, Token, TokenStream};

use crate::behaviour::Behaviour;
use crate::context::{Context, MANY, Output, SOME, read};
use crate::outcome::{Check, Outcome, Stop, ensure, ensure_eq};

const REQUIRES: &[CapabilityId] = &[CapabilityId::Load, CapabilityId::Generate];

pub(super) const BEHAVIOURS: &[Behaviour] = &[
    Behaviour {
        id: "stream/lazy",
        demand: "a stream that nobody reads submits nothing and computes nothing",
        requires: REQUIRES,
        check: lazy,
    },
    Behaviour {
        id: "stream/starts",
        demand: "`start` submits the request without a read, and loses no token",
        requires: REQUIRES,
        check: starts,
    },
    Behaviour {
        id: "stream/bounded",
        demand: "a request whose reader stays away is not computed to its end while others are",
        requires: REQUIRES,
        check: bounded,
    },
    Behaviour {
        id: "stream/drop-cancels",
        demand: "dropping a stream ends its request and gives back what it held",
        requires: REQUIRES,
        check: drop_cancels,
    },
    Behaviour {
        id: "stream/ends-once",
        demand: "after its end a stream yields nothing more, and `finish` tells how it ended",
        requires: REQUIRES,
        check: ends_once,
    },
    Behaviour {
        id: "stream/async",
        demand: "polled as a `Stream` it yields the same tokens as read as an `Iterator`, and \
                 wakes whoever polls",
        requires: REQUIRES,
        check: asynchronous,
    },
];

fn lazy(context: &Context) -> Check {
    let (model, prompts) = (context.model()?, context.prompts()?);
    let unread = model.generate(prompts[0].clone().into(), context.greedy(SOME)?)?;
    let before = model.metrics();
    ensure_eq!(before.requests, 0, "requests in the scheduler before a stream is read");
    ensure_eq!(before.forward_count, 0, "forward passes before a stream is read");
    context.run(&*model, prompts[1].clone(), context.greedy(SOME)?)?;
    context.wait_idle(&*model)?;
    let after = model.metrics();
    ensure_eq!(after.requests, 1, "requests in the scheduler, one of two streams being read");
    let read = read(unread)?;
    ensure!(!read.tokens.is_empty() || read.completion.metrics.generated_tokens > 0, "no tokens");
    ensure_eq!(model.metrics().requests, 2, "requests in the scheduler, both streams being read");
    Ok(Outcome::PASS)
}

fn starts(context: &Context) -> Check {
    let (model, prompts) = (context.model()?, context.prompts()?);
    let expected = context.run(&*model, prompts[0].clone(), context.greedy(SOME)?)?;
    let mut stream = model.generate(prompts[0].clone().into(), context.greedy(SOME)?)?;
    stream.start();
    context
        .wait_until("a started request is in the scheduler", || model.metrics().requests == 2)?;
    stream.start();
    let found = read(stream)?;
    ensure_eq!(found.ids(), expected.ids(), "tokens of a stream that was started");
    ensure_eq!(model.metrics().requests, 2, "requests after a second `start`");
    Ok(Outcome::PASS)
}

fn bounded(context: &Context) -> Check {
    let model = context.model()?;
    let (prompt, options, tokens) = context.long_request(MANY)?;
    let before = model.metrics().generated_tokens;
    let mut unread = model.generate(prompt.clone().into(), options.clone())?;
    ensure!(matches!(unread.next(), Some(Ok(_))), "no first token");
    // Runs beside it, as long as it would.
    let busy = context.run(&*model, prompt, options)?;
    let ahead = model.metrics().generated_tokens - before - busy.tokens.len() as u64;
    ensure!(
        ahead < tokens as u64,
        "all {tokens} tokens were computed although 1 was read: nothing holds the model back"
    );
    let rest = read(unread)?;
    ensure_eq!(rest.tokens.len() + 1, tokens, "tokens once the reader comes back");
    Ok(Outcome::PASS)
}

fn drop_cancels(context: &Context) -> Check {
    let model = context.model()?;
    let (prompt, options, tokens) = context.long_request(MANY)?;
    context.run(&*model, prompt.clone(), options.clone())?;
    context.wait_idle(&*model)?;
    let baseline = model.metrics();
    let mut stream = model.generate(prompt.into(), options)?;
    for _ in 0..2 {
        ensure!(matches!(stream.next(), Some(Ok(_))), "no token");
    }
    drop(stream);
    context.wait_idle(&*model)?;
    let after = model.metrics();
    ensure_eq!(after.kv_blocks_used, baseline.kv_blocks_used, "KV blocks in use afterwards");
    ensure_eq!(after.active_bytes, baseline.active_bytes, "bytes held afterwards");
    ensure_eq!(after.finished, baseline.finished + 1, "requests that ended");
    let generated = after.generated_tokens - baseline.generated_tokens;
    ensure!(generated < tokens as u64, "a dropped stream was computed to its end");
    Ok(Outcome::PASS)
}

fn ends_once(context: &Context) -> Check {
    let (model, prompts) = (context.model()?, context.prompts()?);
    let mut stream = model.generate(prompts[0].clone().into(), context.greedy(SOME)?)?;
    ensure!(stream.completion().is_none(), "a completion before the end");
    for token in stream.by_ref() {
        token?;
    }
    ensure!(stream.next().is_none(), "a token after the end");
    let Some(completion) = stream.completion().cloned() else {
        return crate::outcome::fail("the stream ended without a completion");
    };
    stream.cancel();
    ensure_eq!(stream.finish()?, completion, "`finish`, against `completion`");
    Ok(Outcome::PASS)
}

fn asynchronous(context: &Context) -> Check {
    let (model, prompts) = (context.model()?, context.prompts()?);
    let expected = context.run(&*model, prompts[1].clone(), context.greedy(SOME)?)?;
    let stream = model.generate(prompts[1].clone().into(), context.greedy(SOME)?)?;
    let found = poll_to_end(stream)?;
    ensure_eq!(found.ids(), expected.ids(), "tokens read by polling");
    ensure_eq!(found.text(), expected.text(), "text read by polling");
    Ok(Outcome::PASS)
}

/// Reads a stream with nothing but its wake-ups.
fn poll_to_end(mut stream: TokenStream) -> Result<Output, Stop> {
    #[derive(Default)]
    struct Bell(Mutex<bool>, Condvar);
    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
            self.1.notify_one();
        }
    }
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(Arc::clone(&bell));
    let mut task = TaskContext::from_waker(&waker);
    let mut tokens: Vec<Token> = Vec::new();
    loop {
        let mut next = std::pin::pin!(stream.next_async());
        match next.as_mut().poll(&mut task) {
            Poll::Ready(Some(token)) => tokens.push(token?),
            Poll::Ready(None) => break,
            Poll::Pending => {
                let rung = bell.0.lock().unwrap_or_else(PoisonError::into_inner);
                let rung = bell.1.wait_while(rung, |rung| !*rung);
                *rung.unwrap_or_else(PoisonError::into_inner) = false;
            }
        }
    }
    Ok(Output { tokens, completion: stream.finish()? })
}
