//! Progress bars for the events of a load.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use inference::{ProgressEvent, ProgressSink};

use crate::notes::Notes;
use crate::table;

/// Work that ends sooner than this shows no bar.
const PATIENCE: Duration = Duration::from_millis(300);

/// A sink that draws a bar per phase on a terminal, and passes notes on.
pub(crate) fn sink(notes: Notes) -> ProgressSink {
    let bars = Mutex::new(HashMap::new());
    ProgressSink::new(move |event| {
        let mut bars = bars.lock().unwrap_or_else(PoisonError::into_inner);
        draw(event, &mut bars, notes);
    })
}

struct Phase {
    bar: ProgressBar,
    started: Instant,
}

fn draw(event: &ProgressEvent, bars: &mut HashMap<String, Phase>, notes: Notes) {
    match event {
        ProgressEvent::Started { phase, total, unit } if notes.person() => {
            let bar = ProgressBar::with_draw_target(*total, ProgressDrawTarget::hidden())
                .with_style(style(total.is_some(), unit))
                .with_message(phase.clone());
            bars.insert(phase.clone(), Phase { bar, started: Instant::now() });
        }
        ProgressEvent::Advanced { phase, done } => {
            if let Some(Phase { bar, started }) = bars.get(phase) {
                if bar.is_hidden() && started.elapsed() > PATIENCE {
                    bar.set_draw_target(ProgressDrawTarget::stderr());
                }
                bar.set_position(*done);
            }
        }
        ProgressEvent::Finished { phase } => {
            if let Some(Phase { bar, .. }) = bars.remove(phase) {
                bar.finish_and_clear();
            }
        }
        ProgressEvent::Note { message } => notes.note(message),
        _ => {}
    }
}

fn style(bounded: bool, unit: &str) -> ProgressStyle {
    let template = match (bounded, unit) {
        (true, "bytes") => "{msg} {wide_bar:.dim} {bytes}/{total_bytes} {bytes_per_sec}",
        (true, _) => "{msg} {wide_bar:.dim} {pos}/{len}",
        (false, "bytes") => "{spinner} {msg} {bytes}",
        (false, _) => "{spinner} {msg} {pos}",
    };
    // The templates above are well formed; a plain bar is good enough if not.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// A sink for downloads: bars on a terminal, elsewhere a line per file.
pub(crate) fn download_sink(notes: Notes) -> ProgressSink {
    if notes.person() {
        return sink(notes);
    }
    let sizes = Mutex::new(HashMap::new());
    ProgressSink::new(move |event| {
        let mut sizes = sizes.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            ProgressEvent::Started { phase, total, .. } => {
                sizes.insert(phase.clone(), *total);
            }
            ProgressEvent::Finished { phase } => {
                let size = sizes.remove(phase).flatten().map(table::bytes);
                notes.note(&format!("{phase}: {}", size.unwrap_or_default()));
            }
            ProgressEvent::Note { message } => notes.note(message),
            _ => {}
        }
    })
}
