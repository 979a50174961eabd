//! A llama.cpp model and a context of it, as one value.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::task::{Context, Poll, Waker};

use inference_core::{Error, Result};
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;

/// What is done with the context, once.
type Job = Box<dyn FnOnce(&mut LlamaContext<'_>) + Send>;

/// The job that waits, if any.
type Slot = Arc<Mutex<Option<Job>>>;

/// A context borrows from its model, so no struct can own both. A coroutine
/// can: it has both among its locals, and computes what it finds in the slot
/// each time it is resumed.
pub(crate) struct Session {
    slot: Slot,
    /// Ready when the context could not be made, with the reason.
    coroutine: Pin<Box<dyn Future<Output = Error> + Send>>,
}

impl Session {
    /// Makes the context, with the adapter in a GGUF file and its scale, where there is one.
    /// (The binding adds adapters to a model only while no context borrows it,
    /// so an adapter is there from the beginning, for every sequence.)
    ///
    /// # Errors
    ///
    /// `Engine` with llama.cpp's reason.
    pub(crate) fn open(
        library: &'static LlamaBackend,
        mut model: LlamaModel,
        params: LlamaContextParams,
        adapter: Option<(PathBuf, f32)>,
    ) -> Result<Self> {
        let slot = Slot::default();
        let own = Arc::clone(&slot);
        let coroutine = Box::pin(async move {
            let load = |(path, scale): (PathBuf, f32)| {
                model.lora_adapter_init(path).map(|adapter| (adapter, scale))
            };
            let mut adapter = match adapter.map(load).transpose() {
                Ok(adapter) => adapter,
                Err(error) => return Error::engine("loading an adapter into llama.cpp", error),
            };
            let mut context = match model.new_context(library, params) {
                Ok(context) => context,
                Err(error) => return Error::engine("making a llama.cpp context", error),
            };
            if let Some((adapter, scale)) = &mut adapter
                && let Err(error) = context.lora_adapter_set(adapter, *scale)
            {
                return Error::engine("applying an adapter in llama.cpp", error);
            }
            loop {
                let job = NextJob(&own).await;
                job(&mut context);
            }
        });
        let mut session = Self { slot, coroutine };
        session.resume().map(|()| session)
    }

    /// Runs `job` with the context, on this thread, and returns its result.
    ///
    /// # Errors
    ///
    /// `Engine` where the coroutine has ended.
    pub(crate) fn run<R: Send + 'static>(
        &mut self,
        job: impl FnOnce(&mut LlamaContext<'_>) -> R + Send + 'static,
    ) -> Result<R> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let job: Job = Box::new(move |context| {
            // The receiver lives until the job has run.
            let _ = sender.send(job(context));
        });
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(job);
        self.resume()?;
        receiver.recv().map_err(|error| Error::engine("running llama.cpp", error))
    }

    /// Lets the coroutine run until it waits for a job.
    fn resume(&mut self) -> Result<()> {
        match self.coroutine.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => Ok(()),
            Poll::Ready(error) => Err(error),
        }
    }
}

/// The next job, as soon as there is one.
struct NextJob<'a>(&'a Mutex<Option<Job>>);

impl Future for NextJob<'_> {
    type Output = Job;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Job> {
        let job = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        job.map_or(Poll::Pending, Poll::Ready)
    }
}
