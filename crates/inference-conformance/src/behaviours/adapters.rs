//! Adapters, chosen per request.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use inference_core::{
    Adapters, BASE_MODEL, BatchItem, CapabilityId, DEFAULT_ADAPTER, ErrorKind, GenerateOptions,
    TextModel, TokenId,
};

use crate::adapter_folder::AdapterFolder;
use crate::behaviour::Behaviour;
use crate::context::{Context, SOME, ensure_kind, read};
use crate::outcome::{Check, Outcome, Stop, ensure, ensure_eq, fail};

const REQUIRES: &[CapabilityId] =
    &[CapabilityId::Load, CapabilityId::Generate, CapabilityId::LoraInference];

pub(super) const BEHAVIOURS: &[Behaviour] = &[
    Behaviour {
        id: "adapters/applied",
        demand: "an adapter, as far as its scale, changes requests that name it, and no others",
        requires: REQUIRES,
        check: applied,
    },
    Behaviour {
        id: "adapters/together",
        demand: "requests of several adapters and of none answer together as alone",
        requires: &[
            CapabilityId::Load,
            CapabilityId::Generate,
            CapabilityId::LoraInference,
            CapabilityId::BatchGenerate,
        ],
        check: together,
    },
    Behaviour {
        id: "adapters/prefix-cache",
        demand: "what is cached of a prompt serves the same adapter alone, not one of its name",
        requires: &[
            CapabilityId::Load,
            CapabilityId::Generate,
            CapabilityId::LoraInference,
            CapabilityId::PrefixCache,
        ],
        check: prefix_cache,
    },
    Behaviour {
        id: "adapters/unload",
        demand: "unloading waits for those that use the adapter; then its name is unknown",
        requires: REQUIRES,
        check: unload,
    },
    Behaviour {
        id: "adapters/base",
        demand: "a request can choose the model itself while an adapter is the default",
        requires: REQUIRES,
        check: base,
    },
    Behaviour {
        id: "adapters/load-path",
        demand: "`adapter_path` is for requests that name no adapter, until it is unloaded",
        requires: &[
            CapabilityId::Load,
            CapabilityId::Generate,
            CapabilityId::AdapterAtLoad,
            CapabilityId::LoraInference,
        ],
        check: load_path,
    },
    Behaviour {
        id: "adapters/damaged",
        demand: "an adapter that is not there or has no numbers is an error, and the old one stays",
        requires: REQUIRES,
        check: damaged,
    },
];

fn adapters(model: &dyn TextModel) -> Result<&dyn Adapters, Stop> {
    model.as_adapters().ok_or_else(|| Stop::Fail("`as_adapters` is `None`".to_owned()))
}

/// The answer to a prompt, with an adapter or none.
fn answer(
    context: &Context,
    model: &dyn TextModel,
    prompt: &[TokenId],
    adapter: Option<&str>,
) -> Result<Vec<TokenId>, Stop> {
    Ok(context.run(model, prompt.to_vec(), options(context, adapter)?)?.ids())
}

fn options(context: &Context, adapter: Option<&str>) -> Result<GenerateOptions, Stop> {
    let mut options = context.greedy(SOME)?;
    options.adapter = adapter.map(str::to_owned);
    Ok(options)
}

fn applied(context: &Context) -> Check {
    let model = context.load_with(|load| load)?;
    let (adapters, prompt) = (adapters(&*model)?, context.prompts()?.swap_remove(0));
    let [one, two] = [1, 2].map(|seed| AdapterFolder::new(model.info(), seed));
    let (one, two) = (one?, two?);
    let plain = answer(context, &*model, &prompt, None)?;
    let info = adapters.load("one", one.path(), 1.0)?;
    ensure_eq!((info.name.as_str(), info.rank, info.scale), ("one", 2, 1.0), "what was loaded");
    adapters.load("two", two.path(), 1.0)?;
    let names: Vec<String> = adapters.list().into_iter().map(|info| info.name).collect();
    ensure_eq!(names, ["one", "two"], "the list of adapters");
    let first = answer(context, &*model, &prompt, Some("one"))?;
    ensure!(first != plain, "an adapter changes nothing");
    let second = answer(context, &*model, &prompt, Some("two"))?;
    ensure!(second != first, "two adapters answer the same");
    ensure_eq!(answer(context, &*model, &prompt, Some("one"))?, first, "tokens, asked again");
    ensure_eq!(answer(context, &*model, &prompt, None)?, plain, "tokens without an adapter");
    adapters.set_scale("one", 0.0)?;
    let nothing = answer(context, &*model, &prompt, Some("one"))?;
    ensure_eq!(nothing, plain, "tokens with an adapter of scale 0");
    adapters.set_scale("one", 1.0)?;
    ensure_eq!(answer(context, &*model, &prompt, Some("one"))?, first, "tokens, scaled back");
    ensure_kind(adapters.set_scale("one", f32::NAN), ErrorKind::InvalidOption, "a scale of NaN")?;
    ensure_kind(adapters.set_scale("no", 1.0), ErrorKind::InvalidInput, "scaling what is not")?;
    Ok(Outcome::PASS)
}

fn together(context: &Context) -> Check {
    let model = context.load_with(|load| load)?;
    let adapters = adapters(&*model)?;
    for (name, seed) in [("one", 1), ("two", 2), ("three", 3)] {
        adapters.load(name, AdapterFolder::new(model.info(), seed)?.path(), 1.0)?;
    }
    let names = [Some("two"), None, Some("one"), Some("two"), Some("three"), None];
    let prompts = context.prompts()?;
    let requests: Vec<_> = names.into_iter().zip(prompts.iter().cycle()).collect();
    let mut alone = Vec::new();
    for (name, prompt) in &requests {
        alone.push(answer(context, &*model, prompt, *name)?);
    }
    for order in [[0, 1, 2, 3, 4, 5], [5, 3, 1, 4, 2, 0]] {
        let mut items = Vec::new();
        for index in order {
            let (name, prompt) = requests[index];
            items.push(BatchItem::new(prompt.clone()).with_options(options(context, name)?));
        }
        let outputs = model.batch_generate(items)?.collect_all();
        for (index, output) in order.into_iter().zip(outputs) {
            let found: Vec<TokenId> = output?.tokens.iter().map(|token| token.id).collect();
            let name = names[index].unwrap_or("no adapter");
            ensure_eq!(found, alone[index], "tokens with {name} in a mixed batch");
        }
    }
    Ok(Outcome::PASS)
}

fn prefix_cache(context: &Context) -> Check {
    let cached = context.load_with(|load| load.with_prefix_cache(true))?;
    let plain = context.load_with(|load| load.with_prefix_cache(false))?;
    let length = (cached.info().context_len / 2).min(200);
    let prompt = context.long_prompt(length, 0)?;
    // The same name for other weights, and other scales, one after the other.
    for (name, seed, scale) in
        [("one", 1, 1.0), ("two", 2, 1.0), ("one", 2, 1.0), ("one", 1, 1.0), ("one", 1, 0.5)]
    {
        let folder = AdapterFolder::new(cached.info(), seed)?;
        let mut answers = Vec::new();
        for model in [&cached, &plain] {
            adapters(&**model)?.load(name, folder.path(), scale)?;
            for adapter in [Some(name), None] {
                answers.push(answer(context, &**model, &prompt, adapter)?);
            }
        }
        let what = format!("weights {seed} as `{name}`, scale {scale}");
        ensure_eq!(answers[0], answers[2], "tokens with a cache: {what}");
        ensure_eq!(answers[1], answers[3], "tokens with a cache, no adapter after {what}");
    }
    Ok(Outcome::PASS)
}

fn unload(context: &Context) -> Check {
    let model = context.load_with(|load| load)?;
    let adapters = adapters(&*model)?;
    let folder = AdapterFolder::new(model.info(), 1)?;
    adapters.load("one", folder.path(), 1.0)?;
    let (prompt, options, _) = context.long_request(crate::context::MANY)?;
    let options = options.with_adapter("one");
    let expected = context.run(&*model, prompt.clone(), options.clone())?.ids();
    let mut stream = model.generate(prompt.clone().into(), options.clone())?;
    let first = stream.next().transpose()?;
    let begun = AtomicBool::new(false);
    let (rest, running) = std::thread::scope(|scope| {
        let unloaded = scope.spawn(|| {
            begun.store(true, Ordering::SeqCst);
            let outcome = adapters.unload("one");
            outcome.map(|()| model.metrics().running)
        });
        while !begun.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        (read(stream), unloaded.join())
    });
    let found: Vec<TokenId> = first.map(|token| token.id).into_iter().chain(rest?.ids()).collect();
    ensure_eq!(found, expected, "tokens of a request whose adapter is unloaded meanwhile");
    let Ok(running) = running else { return fail("`unload` panicked") };
    ensure_eq!(running?, 0, "requests that run when `unload` returns");
    let again = model.generate(prompt.into(), options);
    ensure_kind(again, ErrorKind::InvalidInput, "a request for what was unloaded")?;
    ensure_kind(adapters.unload("one"), ErrorKind::InvalidInput, "unloading it again")?;
    ensure!(adapters.list().is_empty(), "what was unloaded is listed");
    Ok(Outcome::PASS)
}

fn base(context: &Context) -> Check {
    let model = context.load_with(|load| load)?;
    let (adapters, prompt) = (adapters(&*model)?, context.prompts()?.swap_remove(0));
    let folder = AdapterFolder::new(model.info(), 1)?;
    let plain = answer(context, &*model, &prompt, Some(BASE_MODEL))?;
    ensure_eq!(answer(context, &*model, &prompt, None)?, plain, "tokens without adapters");
    adapters.load(DEFAULT_ADAPTER, folder.path(), 1.0)?;
    let adapted = answer(context, &*model, &prompt, None)?;
    ensure!(adapted != plain, "the default adapter changes nothing");
    let found = answer(context, &*model, &prompt, Some(BASE_MODEL))?;
    ensure_eq!(found, plain, "tokens of the model itself beside a default adapter");
    let refused = adapters.load(BASE_MODEL, folder.path(), 1.0);
    ensure_kind(refused, ErrorKind::InvalidInput, "loading under the name of the model itself")?;
    Ok(Outcome::PASS)
}

fn load_path(context: &Context) -> Check {
    let model = context.model()?;
    let (folder, prompt) =
        (AdapterFolder::new(model.info(), 1)?, context.prompts()?.swap_remove(0));
    let plain = answer(context, &*model, &prompt, None)?;
    let adapted = context.load_with(|load| load.with_adapter_path(folder.path()))?;
    let own = adapters(&*adapted)?;
    let named = answer(context, &*adapted, &prompt, Some(DEFAULT_ADAPTER))?;
    let unnamed = answer(context, &*adapted, &prompt, None)?;
    ensure!(unnamed != plain, "`adapter_path` changes nothing");
    ensure_eq!(unnamed, named, "tokens with `adapter_path`, named and not");
    let with_scale = |load: inference_core::LoadOptions| {
        load.with_adapter_path(folder.path()).with_adapter_scale(0.0)
    };
    let nothing = context.load_with(with_scale)?;
    let found = answer(context, &*nothing, &prompt, None)?;
    ensure_eq!(found, plain, "tokens with `adapter_scale` 0");
    own.unload(DEFAULT_ADAPTER)?;
    let found = answer(context, &*adapted, &prompt, None)?;
    ensure_eq!(found, plain, "tokens after `adapter_path` was unloaded");
    Ok(Outcome::PASS)
}

fn damaged(context: &Context) -> Check {
    let model = context.load_with(|load| load)?;
    let (adapters, prompt) = (adapters(&*model)?, context.prompts()?.swap_remove(0));
    adapters.load("one", AdapterFolder::new(model.info(), 1)?.path(), 1.0)?;
    let before = answer(context, &*model, &prompt, Some("one"))?;
    let missing = adapters.load("one", Path::new("no/such/adapter"), 1.0);
    match missing {
        Ok(_) => return fail("an adapter that is not there was loaded"),
        Err(error) => {
            let named = error.to_string().contains("no/such/adapter");
            ensure!(named, "the error does not name what is missing: {error}");
        }
    }
    let folder = AdapterFolder::damaged(model.info())?;
    let damaged = adapters.load("one", folder.path(), 1.0);
    ensure_kind(damaged, ErrorKind::InvalidModel, "loading an adapter with NaN")?;
    let good = AdapterFolder::new(model.info(), 2)?;
    let scale = adapters.load("one", good.path(), f32::INFINITY);
    ensure_kind(scale, ErrorKind::InvalidOption, "loading with an infinite scale")?;
    ensure_eq!(answer(context, &*model, &prompt, Some("one"))?, before, "tokens after refusals");
    Ok(Outcome::PASS)
}
