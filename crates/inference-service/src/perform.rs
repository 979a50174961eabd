//! How each action is carried out.

use inference_core::{CancelToken, GenerateOptions, Result};

use crate::action::{
    Batch, Cancel, Capabilities, Chat, Classify, Generate, Info, Load, Metrics, Target,
    TypedAction, Unload,
};
use crate::host::{Hold, OpenRequest};
use crate::reply::{
    BackendStatus, Backends, BatchGeneration, Cancelled, Classifications, Generation, Loaded,
    RequestKind, ServiceInfo, ServiceMetrics, Unloaded,
};
use crate::service::InferenceService;

impl TypedAction for Load {
    type Reply = Loaded;

    fn perform(self, service: &InferenceService) -> Result<Loaded> {
        service.host().load(&self).map(|(loaded, _)| loaded)
    }
}

impl TypedAction for Unload {
    type Reply = Unloaded;

    fn perform(self, service: &InferenceService) -> Result<Unloaded> {
        service.host().unload(&self)
    }
}

impl TypedAction for Generate {
    type Reply = Generation;

    fn perform(self, service: &InferenceService) -> Result<Generation> {
        let Self { model, prompt, options } = self;
        stream(service, &model, RequestKind::Generate, options, |model, options| {
            model.generate(prompt, options)
        })
    }
}

impl TypedAction for Chat {
    type Reply = Generation;

    fn perform(self, service: &InferenceService) -> Result<Generation> {
        let Self { model, chat, options } = self;
        stream(service, &model, RequestKind::Chat, options, |model, options| {
            model.chat(chat, options)
        })
    }
}

/// Opens a request of one stream.
fn stream(
    service: &InferenceService,
    target: &Target,
    kind: RequestKind,
    mut options: GenerateOptions,
    submit: impl FnOnce(
        &dyn inference_core::TextModel,
        GenerateOptions,
    ) -> Result<inference_core::TokenStream>,
) -> Result<Generation> {
    let (hold, model) = service.host().acquire(target)?;
    // The request ends for its caller's token, and for its id.
    let cancel = CancelToken::any_of(options.cancel.take());
    options.cancel = Some(cancel.clone());
    let (request, name) = open(service, hold, kind, cancel)?;
    let stream = submit(&*model, options)?;
    Ok(Generation { id: request.id, model: name, stream: stream.with_guard(request) })
}

fn open(
    service: &InferenceService,
    hold: Hold,
    kind: RequestKind,
    cancel: CancelToken,
) -> Result<(OpenRequest, String)> {
    let name = hold.name.clone();
    Ok((service.host().open(hold, kind, cancel)?, name))
}

impl TypedAction for Classify {
    type Reply = Classifications;

    fn perform(self, service: &InferenceService) -> Result<Classifications> {
        let Self { model, prompts, mut options } = self;
        let (hold, model) = service.host().acquire(&model)?;
        let cancel = CancelToken::any_of(options.cancel.take());
        options.cancel = Some(cancel.clone());
        let (request, name) = open(service, hold, RequestKind::Classify, cancel)?;
        let results = model.classify(prompts, &options)?;
        Ok(Classifications { id: request.id, model: name, results })
    }
}

impl TypedAction for Batch {
    type Reply = BatchGeneration;

    fn perform(self, service: &InferenceService) -> Result<BatchGeneration> {
        let Self { model, mut items } = self;
        let (hold, model) = service.host().acquire(&model)?;
        let cancel = CancelToken::new();
        for item in &mut items {
            let own = item.options.cancel.take();
            item.options.cancel =
                Some(CancelToken::any_of(own.into_iter().chain([cancel.clone()])));
        }
        let (request, name) = open(service, hold, RequestKind::Batch, cancel)?;
        let stream = model.batch_generate(items)?;
        Ok(BatchGeneration { id: request.id, model: name, stream: stream.with_guard(request) })
    }
}

impl TypedAction for Info {
    type Reply = ServiceInfo;

    fn perform(self, service: &InferenceService) -> Result<ServiceInfo> {
        service.host().info(self.model.as_deref())
    }
}

impl TypedAction for Capabilities {
    type Reply = Backends;

    fn perform(self, service: &InferenceService) -> Result<Backends> {
        let registry = service.host().registry();
        let backends = match &self.backend {
            Some(name) => vec![registry.get(name)?],
            None => registry.all(),
        };
        let status = |backend: std::sync::Arc<dyn inference_core::Backend>| BackendStatus {
            name: backend.name().to_owned(),
            availability: backend.availability(),
            capabilities: backend.capabilities(),
        };
        Ok(Backends { backends: backends.into_iter().map(status).collect() })
    }
}

impl TypedAction for Metrics {
    type Reply = ServiceMetrics;

    fn perform(self, service: &InferenceService) -> Result<ServiceMetrics> {
        service.host().metrics(self.model.as_deref())
    }
}

impl TypedAction for Cancel {
    type Reply = Cancelled;

    fn perform(self, service: &InferenceService) -> Result<Cancelled> {
        service.host().cancel(&self)
    }
}
