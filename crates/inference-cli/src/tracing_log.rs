//! What the libraries report through `tracing`, on standard error.

use std::io;

use tracing_subscriber::EnvFilter;

/// Switches the log on: 1 = info, 2 = debug, 3 and more = everything.
pub(crate) fn install(verbose: u8) {
    let level = match verbose {
        0 => return,
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(level))
        .with_writer(io::stderr)
        .with_ansi(false)
        .compact();
    // Fails only where a subscriber is set already, and main sets just this one.
    let _ = subscriber.try_init();
}
