//! The kinds of rotary embedding and how configs name them.

use inference_core::{Error, Result};

use super::Fields;

/// One rotary embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    /// The base of the frequencies.
    pub theta: f64,
    /// How many elements of a head are rotated; even.
    pub dim: usize,
    /// How the frequencies are scaled.
    pub scaling: RopeScaling,
}

/// How frequencies are scaled to contexts longer than the trained one.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Positions divided by `factor`.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// NTK-aware scaling that grows with the context.
    Dynamic {
        /// The factor.
        factor: f64,
        /// The trained context, in tokens.
        original_context: usize,
    },
    /// Llama 3.1's.
    Llama3 {
        /// The factor.
        factor: f64,
        /// Wavelengths above `original_context / low_freq_factor` are scaled.
        low_freq_factor: f64,
        /// Wavelengths below `original_context / high_freq_factor` are not.
        high_freq_factor: f64,
        /// The trained context, in tokens.
        original_context: usize,
    },
    /// YaRN. Peng et al., 2023.
    Yarn {
        /// The factor.
        factor: f64,
        /// Rotations above which dimensions are not scaled.
        beta_fast: f64,
        /// Rotations below which dimensions are scaled fully.
        beta_slow: f64,
        /// Factor on cosines and sines.
        attention_factor: f64,
        /// The trained context, in tokens.
        original_context: usize,
        /// The bounds of the ramp are whole dimensions.
        truncate: bool,
    },
    /// LongRoPE: a factor per dimension, one set for sequences whose prompt is
    /// within the trained context, one for the others. Ding et al., 2024.
    LongRope {
        /// Factors within the trained context, `[dim / 2]`.
        short: Vec<f64>,
        /// Factors beyond it, `[dim / 2]`.
        long: Vec<f64>,
        /// Factor on cosines and sines.
        attention_factor: f64,
        /// The trained context, in tokens.
        original_context: usize,
    },
    /// A factor on the wavelength of each rotated pair, as GGUF stores Llama
    /// 3.1's scaling.
    Factors {
        /// The factors, `[dim / 2]`.
        factors: Vec<f64>,
    },
}

impl RopeSpec {
    /// Reads the rotary embedding of all layers: `rope_parameters`
    /// (transformers 5), or `rope_theta` and `rope_scaling` (transformers 4).
    pub(crate) fn read(
        fields: &Fields<'_>,
        head_dim: usize,
        context_len: usize,
        theta: f64,
    ) -> Result<Self> {
        let theta = fields.positive("rope_theta")?.unwrap_or(theta);
        if let Some(parameters) = fields.object("rope_parameters")? {
            let inner = match parameters.object("full_attention")? {
                // Gemma 3 reads the other kind of layer itself.
                Some(full) if fields.text("model_type")? == Some("gemma3_text") => Some(full),
                Some(_) => {
                    let supported = "one set of parameters for all layers";
                    return Err(fields.unsupported("rope_parameters", supported));
                }
                None => Some(parameters),
            };
            return Self::read_parameters(fields, inner.as_ref(), head_dim, context_len, theta);
        }
        let scaling = fields.object("rope_scaling")?;
        Self::read_parameters(fields, scaling.as_ref(), head_dim, context_len, theta)
    }

    /// Reads one object of rope parameters; `fields` is the whole config.
    pub(super) fn read_parameters(
        fields: &Fields<'_>,
        parameters: Option<&Fields<'_>>,
        head_dim: usize,
        context_len: usize,
        theta: f64,
    ) -> Result<Self> {
        let inner = |name: &str| match parameters {
            Some(parameters) => parameters.positive(name),
            None => Ok(None),
        };
        let theta = inner("rope_theta")?.unwrap_or(theta);
        if theta < 1.0 {
            let (what, expected) = (fields.label("rope_theta"), "a number of at least 1");
            return Err(Error::invalid_model(fields.file(), what, expected, theta.to_string()));
        }
        let partial = match inner("partial_rotary_factor")? {
            Some(partial) => partial,
            None => fields.positive("partial_rotary_factor")?.unwrap_or(1.0),
        };
        let dim = (head_dim as f64 * partial) as usize;
        if dim == 0 || !dim.is_multiple_of(2) || dim > head_dim {
            return Err(Error::invalid_model(
                fields.file(),
                fields.label("head_dim * partial_rotary_factor"),
                format!("an even number from 2 to head_dim ({head_dim})"),
                dim.to_string(),
            ));
        }
        let scaling = match parameters {
            Some(parameters) => RopeScaling::read(fields, parameters, dim, context_len)?,
            None => RopeScaling::None,
        };
        Ok(Self { theta, dim, scaling })
    }

    /// The longest context: dynamic scaling and YaRN stretch the trained one
    /// where the config does not say so already.
    pub(super) fn context_len(&self, context_len: usize) -> usize {
        match self.scaling {
            RopeScaling::Dynamic { factor, original_context, .. }
            | RopeScaling::Yarn { factor, original_context, .. } => {
                let stretched = (original_context as f64 * factor) as usize;
                context_len.max(stretched.min(1 << 24))
            }
            _ => context_len,
        }
    }
}

const KINDS: &str = "default, linear, dynamic, llama3, yarn, longrope";

impl RopeScaling {
    fn read(
        fields: &Fields<'_>,
        parameters: &Fields<'_>,
        dim: usize,
        context_len: usize,
    ) -> Result<Self> {
        let field = if parameters.has("rope_type") { "rope_type" } else { "type" };
        let Some(mut kind) = parameters.text(field)? else {
            // transformers 5 writes `rope_parameters` for unscaled ones too.
            if parameters.has("factor") {
                return Err(parameters.invalid("rope_type", format!("one of {KINDS}")));
            }
            return Ok(Self::None);
        };
        // Phi-3's first files call longrope by its older names.
        if fields.text("model_type")? == Some("phi3") && matches!(kind, "su" | "yarn") {
            kind = "longrope";
        }
        // Some configs keep the trained context beside the scaling.
        let original = || -> Result<Option<usize>> {
            let name = "original_max_position_embeddings";
            Ok(parameters.length(name)?.or(fields.length(name)?))
        };
        let factor = || parameters.required_positive("factor");
        match kind {
            "default" => Ok(Self::None),
            "linear" => Ok(Self::Linear { factor: factor()? }),
            "dynamic" => {
                if parameters.has("alpha") {
                    return Err(parameters.unsupported("alpha", "dynamic scaling by factor"));
                }
                if dim < 4 {
                    return Err(parameters.unsupported(field, "at least 4 rotated elements"));
                }
                let factor = factor()?;
                if factor < 1.0 {
                    return Err(parameters.invalid("factor", "at least 1"));
                }
                Ok(Self::Dynamic { factor, original_context: context_len })
            }
            "llama3" => {
                let low_freq_factor = parameters.required_positive("low_freq_factor")?;
                let high_freq_factor = parameters.required_positive("high_freq_factor")?;
                if high_freq_factor <= low_freq_factor {
                    let expected = format!("above low_freq_factor ({low_freq_factor})");
                    return Err(parameters.invalid("high_freq_factor", expected));
                }
                let original_context = original()?.unwrap_or(context_len);
                Ok(Self::Llama3 {
                    factor: factor()?,
                    low_freq_factor,
                    high_freq_factor,
                    original_context,
                })
            }
            "yarn" => Self::read_yarn(parameters, original()?, context_len),
            "longrope" => Self::read_longrope(parameters, original()?, dim, context_len),
            _ => Err(parameters.unsupported(field, KINDS)),
        }
    }

    fn read_yarn(
        parameters: &Fields<'_>,
        original: Option<usize>,
        context_len: usize,
    ) -> Result<Self> {
        let original_context = original.unwrap_or(context_len);
        let factor = match parameters.positive("factor")? {
            Some(factor) => factor,
            None => context_len as f64 / original_context as f64,
        };
        let mscale =
            |scale: f64, m: f64| if scale <= 1.0 { 1.0 } else { 0.1 * m * scale.ln() + 1.0 };
        let scales = (parameters.number("mscale")?, parameters.number("mscale_all_dim")?);
        let attention_factor = match (parameters.positive("attention_factor")?, scales) {
            (Some(given), _) => given,
            (None, (Some(m), Some(all))) if m != 0.0 && all != 0.0 => {
                mscale(factor, m) / mscale(factor, all)
            }
            _ => mscale(factor, 1.0),
        };
        Ok(Self::Yarn {
            factor,
            beta_fast: parameters.positive("beta_fast")?.unwrap_or(32.0),
            beta_slow: parameters.positive("beta_slow")?.unwrap_or(1.0),
            attention_factor,
            original_context,
            truncate: parameters.flag("truncate")?.unwrap_or(true),
        })
    }

    fn read_longrope(
        parameters: &Fields<'_>,
        original: Option<usize>,
        dim: usize,
        context_len: usize,
    ) -> Result<Self> {
        let factors = |name: &str| {
            let factors = parameters.required_positives(name)?;
            if factors.len() != dim / 2 {
                let expected = format!("{} factors, one for each rotated pair", dim / 2);
                return Err(parameters.invalid(name, expected));
            }
            Ok(factors)
        };
        let factor = match (original, parameters.positive("factor")?) {
            (Some(original), _) => context_len as f64 / original as f64,
            (None, factor) => factor.unwrap_or(1.0),
        };
        let original_context = original.unwrap_or(context_len);
        let attention_factor = match parameters.positive("attention_factor")? {
            Some(given) => given,
            None if factor <= 1.0 || original_context < 2 => 1.0,
            None => (1.0 + factor.ln() / (original_context as f64).ln()).sqrt(),
        };
        Ok(Self::LongRope {
            short: factors("short_factor")?,
            long: factors("long_factor")?,
            attention_factor,
            original_context,
        })
    }
}
