//! The argument groups that commands share.

mod ids;
mod load_args;
mod sampling;
pub(crate) mod source;
mod template_args;
pub(crate) mod values;

pub(crate) use ids::Ids;
pub(crate) use load_args::LoadArgs;
pub(crate) use sampling::SamplingArgs;
pub(crate) use source::SourceArgs;
pub(crate) use template_args::TemplateArgs;
