//! The tensors of an adapter, gathered by module and checked as a whole.

use std::collections::{BTreeMap, HashMap};

use candle_core::Tensor;
use inference_core::{Error, Result};

use crate::{AdapterWeights, Module, ModuleDelta, ModuleKind, ModuleTable};

/// What a tensor of an adapter is to its module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// `A`, `[rank, in]`.
    A,
    /// `B`, `[out, rank]`.
    B,
    /// DoRA's norms, `[out]`.
    Magnitude,
    /// The bias of `B`, `[out]`.
    FactorBias,
    /// The whole weight.
    Weight,
    /// The module's bias, `[out]`.
    Bias,
}

/// What the configuration says of one module.
pub(crate) struct Expected {
    /// The rank, where it says one.
    pub(crate) rank: Option<usize>,
    /// What the product of the factors is multiplied by.
    pub(crate) scaling: f64,
}

/// The tensors found so far.
pub(crate) struct Pieces<'a> {
    file: &'a str,
    table: &'a ModuleTable,
    /// Module, role; name in the file, tensor.
    found: BTreeMap<String, BTreeMap<Role, (String, Tensor)>>,
    unmatched: Vec<String>,
}

impl<'a> Pieces<'a> {
    pub(crate) fn new(file: &'a str, table: &'a ModuleTable) -> Self {
        Self { file, table, found: BTreeMap::new(), unmatched: Vec::new() }
    }

    /// Notes a tensor that is none of the model's.
    pub(crate) fn add_unmatched(&mut self, tensor: &str) {
        self.unmatched.push(tensor.to_owned());
    }

    pub(crate) fn add(
        &mut self,
        module: &str,
        role: Role,
        name: &str,
        tensor: Tensor,
    ) -> Result<()> {
        let roles = self.found.entry(module.to_owned()).or_default();
        match roles.insert(role, (name.to_owned(), tensor)) {
            None => Ok(()),
            Some((other, _)) => {
                let found = format!("tensor `{other}` too");
                Err(Error::invalid_model(self.file, format!("tensor `{name}`"), "once", found))
            }
        }
    }

    /// Whether the module has a tensor of that role.
    pub(crate) fn has(&self, module: &str, role: Role) -> bool {
        self.found.get(module).is_some_and(|roles| roles.contains_key(&role))
    }

    /// The name of the first tensor of that role.
    pub(crate) fn first(&self, role: Role) -> Option<&str> {
        self.found.values().find_map(|roles| roles.get(&role)).map(|(name, _)| name.as_str())
    }

    /// The rows of every module's `A`.
    pub(crate) fn ranks(&self) -> HashMap<String, usize> {
        let rank = |(module, roles): (&String, &BTreeMap<Role, (String, Tensor)>)| {
            let (_, a) = roles.get(&Role::A)?;
            Some((module.clone(), a.dims().first().copied()?))
        };
        self.found.iter().filter_map(rank).collect()
    }

    /// The tensors that are none of the model's.
    pub(crate) fn take_unmatched(&mut self) -> Vec<String> {
        std::mem::take(&mut self.unmatched)
    }

    /// The adapter, once every shape is checked; `expected` says what the
    /// configuration says.
    pub(crate) fn finish(
        self,
        expected: impl Fn(&str) -> Result<Expected>,
    ) -> Result<AdapterWeights> {
        let Self { file, table, found, .. } = self;
        let mut adapter = AdapterWeights::default();
        for (name, mut roles) in found {
            let Some(module) = table.get(&name) else {
                return Err(Error::engine_message(format!("module `{name}` is not of the model")));
            };
            let check = Check { file, module };
            if let Some((tensor, weight)) = roles.remove(&Role::Weight) {
                check.shape(&tensor, &weight, &module.shape())?;
                adapter.weights.insert(name.clone(), weight);
            }
            if let Some((tensor, bias)) = roles.remove(&Role::Bias) {
                if !module.bias {
                    let (expected, found) = (format!("no bias of `{name}`"), "a bias");
                    let what = format!("tensor `{tensor}`");
                    return Err(Error::invalid_model(file, what, expected, found));
                }
                check.shape(&tensor, &bias, &[module.out])?;
                adapter.biases.insert(name.clone(), bias);
            }
            if let Some(delta) = check.delta(&name, roles, &expected)? {
                adapter.modules.insert(name, delta);
            }
        }
        Ok(adapter)
    }
}

struct Check<'a> {
    file: &'a str,
    module: &'a Module,
}

impl Check<'_> {
    fn invalid(&self, tensor: &str, expected: String, found: String) -> Error {
        Error::invalid_model(self.file, format!("tensor `{tensor}`"), expected, found)
    }

    fn shape(&self, name: &str, tensor: &Tensor, expected: &[usize]) -> Result<()> {
        if tensor.dims() == expected {
            return Ok(());
        }
        let expected = format!("shape {expected:?}, as the model's");
        Err(self.invalid(name, expected, format!("shape {:?}", tensor.dims())))
    }

    /// The low-rank change, where there is one.
    fn delta(
        &self,
        module: &str,
        mut roles: BTreeMap<Role, (String, Tensor)>,
        expected: &impl Fn(&str) -> Result<Expected>,
    ) -> Result<Option<ModuleDelta>> {
        let (a, b) = (roles.remove(&Role::A), roles.remove(&Role::B));
        let ((a_name, a), (b_name, b)) = match (a, b) {
            (Some(a), Some(b)) => (a, b),
            (Some((name, _)), None) => return Err(self.half(&name, "B")),
            (None, Some((name, _))) => return Err(self.half(&name, "A")),
            (None, None) => {
                return match roles.into_values().next() {
                    None => Ok(None),
                    Some((name, _)) => Err(self.half(&name, "A and B")),
                };
            }
        };
        if self.module.kind == ModuleKind::Norm {
            let expected = "a module with a matrix".to_owned();
            return Err(self.invalid(&a_name, expected, format!("the norm `{module}`")));
        }
        let expected = expected(module)?;
        let rank = match (expected.rank, a.dims()) {
            (Some(rank), _) => rank,
            (None, [rank, _]) => *rank,
            (None, dims) => {
                let expected = "two dimensions".to_owned();
                return Err(self.invalid(&a_name, expected, format!("shape {dims:?}")));
            }
        };
        if rank == 0 {
            let found = "rank 0".to_owned();
            return Err(self.invalid(&a_name, "a rank of at least 1".to_owned(), found));
        }
        self.shape(&a_name, &a, &[rank, self.module.input])?;
        self.shape(&b_name, &b, &[self.module.out, rank])?;
        let scaling = expected.scaling as f32;
        if !scaling.is_finite() {
            let found = scaling.to_string();
            let what = format!("scaling of `{module}`");
            return Err(Error::invalid_model(self.file, what, "a finite number", found));
        }
        let (a, b) = same_type(a, b)?;
        let mut delta = ModuleDelta::new(a, b, scaling);
        if let Some((name, magnitude)) = roles.remove(&Role::Magnitude) {
            self.shape(&name, &magnitude, &[self.module.out])?;
            if self.module.kind == ModuleKind::Embedding {
                let what = format!("tensor `{name}`");
                let supported = "of maps and the output head";
                return Err(Error::unsupported_model(self.file, what, "DoRA", supported));
            }
            delta = delta.with_magnitude(magnitude);
        }
        if let Some((name, bias)) = roles.remove(&Role::FactorBias) {
            self.shape(&name, &bias, &[self.module.out])?;
            delta = delta.with_bias(bias);
        }
        Ok(Some(delta))
    }

    fn half(&self, name: &str, other: &str) -> Error {
        self.invalid(name, format!("factor {other} of the same module"), "nothing".to_owned())
    }
}

/// Both in f32 where they are of two types.
fn same_type(a: Tensor, b: Tensor) -> Result<(Tensor, Tensor)> {
    if a.dtype() == b.dtype() {
        return Ok((a, b));
    }
    let wide = |tensor: Tensor| {
        tensor
            .to_dtype(candle_core::DType::F32)
            .map_err(|error| Error::engine("widening a factor", error))
    };
    Ok((wide(a)?, wide(b)?))
}

/// A matrix with rows and columns exchanged.
pub(crate) fn transposed(file: &str, name: &str, tensor: &Tensor) -> Result<Tensor> {
    let [_, _] = tensor.dims() else {
        let found = format!("shape {:?}", tensor.dims());
        return Err(Error::invalid_model(
            file,
            format!("tensor `{name}`"),
            "two dimensions",
            found,
        ));
    };
    let turned = tensor.t().and_then(|tensor| tensor.contiguous());
    turned.map_err(|error| Error::engine(format!("transposing tensor `{name}`"), error))
}
