//! Calls that their token ends.

use inference_batched::{Activation, Architecture, BatchedOptions, Request};
use inference_core::{CancelToken, ErrorKind};

use crate::naive::group;

#[test]
fn a_cancelled_call_is_an_error_and_the_next_one_is_not() {
    for widths in [&[4, 8, 2][..], &[64, 128, 64]] {
        let architecture = Architecture::mlp(widths, Activation::Relu, Activation::None).unwrap();
        for threads in [1, 3] {
            let options = BatchedOptions::new().with_threads(threads);
            let (group, _) = group(100, &architecture, &options, 5);
            let inputs = vec![0.5; 100 * widths[0]];
            let token = CancelToken::new();
            let request = Request::new(&inputs).with_cancel(&token);
            let expected = group.run(&request).unwrap();
            token.cancel();
            assert_eq!(group.run(&request).unwrap_err().kind(), ErrorKind::Cancelled);
            assert_eq!(group.forward(&inputs).unwrap(), expected);
        }
    }
}

#[test]
fn a_call_that_runs_can_be_cancelled() {
    let architecture =
        Architecture::mlp(&[64, 64, 64], Activation::Tanh, Activation::None).unwrap();
    let (group, _) = group(4, &architecture, &BatchedOptions::new().with_threads(2), 5);
    let inputs = vec![0.5; 4 * 64];
    let token = CancelToken::new();
    std::thread::scope(|scope| {
        let calls = scope.spawn(|| {
            // Ends because of the token, or never.
            loop {
                let request = Request::new(&inputs).with_cancel(&token);
                if let Err(error) = group.run(&request) {
                    return error.kind();
                }
            }
        });
        token.cancel();
        assert_eq!(calls.join().unwrap(), ErrorKind::Cancelled);
    });
}
