//! The backend `metal`.

use std::sync::Arc;

use inference_core::{
    Availability, Backend, Capabilities, CapabilityStatus, DiscoveredModel, Error, LoadOptions,
    ModelSource, Result, TextModel,
};

use crate::driver;

/// The name in the registry.
const NAME: &str = "metal";

/// Runs models on the first Metal device.
///
/// Of [`LoadOptions`] it refuses `threads` and `affinity`, which mean nothing
/// there; the loader honours or refuses the rest.
#[derive(Clone, Copy, Debug, Default)]
pub struct MetalBackend;

impl Backend for MetalBackend {
    fn name(&self) -> &str {
        NAME
    }

    fn availability(&self) -> Availability {
        match driver::devices() {
            Ok(devices) if devices.is_empty() => Availability::unavailable("no Metal device found"),
            Ok(devices) => Availability::ready(devices),
            Err(reason) => Availability::unavailable(reason),
        }
    }

    fn capabilities(&self) -> Capabilities {
        let detail = "Candle's operations, without kernels of our own; needs the feature `metal`";
        inference_candle::capabilities(CapabilityStatus::Experimental, detail)
    }

    fn accepts(&self, model: &DiscoveredModel) -> Result<()> {
        inference_candle::accepts(model)
    }

    fn load_model(
        &self,
        source: &ModelSource,
        options: &LoadOptions,
    ) -> Result<Arc<dyn TextModel>> {
        inference_candle::load_on_device(NAME, source, options, || {
            driver::open()
                .map_err(|reason| Error::BackendUnavailable { name: NAME.to_owned(), reason })
        })
    }
}
