//! Models of several architectures behind one call.

use std::collections::BTreeMap;
use std::sync::Arc;

use inference_core::{CancelToken, Error, Result};

use crate::{BatchedInference, Request};

/// Groups by name, each with an architecture of its own, evaluated by one call
/// that takes rows for models of any of them.
///
/// Groups that are built with one pool of [`Workers`](crate::Workers) do not
/// have threads of their own each.
///
/// ```
/// use std::sync::Arc;
/// use inference_batched::{
///     Activation, Architecture, BatchedGroups, BatchedInference, Device, ModelRow,
/// };
///
/// let mut groups = BatchedGroups::new();
/// for (name, inputs) in [("small", 1), ("large", 2)] {
///     let architecture = Architecture::mlp(&[inputs, 1], Activation::None, Activation::None)?;
///     let group = BatchedInference::new(10, architecture, Device::cpu())?;
///     group.load_weights(3, [("layer_0", vec![2.0; inputs]), ("layer_0.bias", vec![0.0])])?;
///     groups.insert(name, Arc::new(group))?;
/// }
/// let rows = [ModelRow::new("large", 3, &[1.0, 1.0]), ModelRow::new("small", 3, &[1.0])];
/// assert_eq!(groups.forward(&rows)?, [[4.0], [2.0]]);
/// # Ok::<(), inference_core::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct BatchedGroups {
    groups: BTreeMap<String, Arc<BatchedInference>>,
}

/// A row of inputs for a model of a group.
#[derive(Clone, Copy, Debug)]
pub struct ModelRow<'a> {
    /// The group's name.
    pub group: &'a str,
    /// The model's index in the group.
    pub model: usize,
    /// As many numbers as the group's architecture has inputs.
    pub inputs: &'a [f32],
}

impl<'a> ModelRow<'a> {
    /// A row for model `model` of `group`.
    #[must_use]
    pub fn new(group: &'a str, model: usize, inputs: &'a [f32]) -> Self {
        Self { group, model, inputs }
    }
}

impl BatchedGroups {
    /// No groups.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a group.
    ///
    /// # Errors
    ///
    /// `InvalidInput` where the name is taken.
    pub fn insert(&mut self, name: impl Into<String>, group: Arc<BatchedInference>) -> Result<()> {
        let name = name.into();
        if self.groups.contains_key(&name) {
            return Err(Error::invalid_input("group", "a name that is not taken", name));
        }
        self.groups.insert(name, group);
        Ok(())
    }

    /// Takes a group out; `None`: no such group.
    pub fn remove(&mut self, name: &str) -> Option<Arc<BatchedInference>> {
        self.groups.remove(name)
    }

    /// A group; `None`: no such group.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<BatchedInference>> {
        self.groups.get(name)
    }

    /// The names of all groups, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.groups.keys().map(String::as_str)
    }

    /// Outputs of each row, in the order of the rows; each group is evaluated
    /// once.
    ///
    /// # Errors
    ///
    /// Those of [`forward_cancellable`](Self::forward_cancellable).
    pub fn forward(&self, rows: &[ModelRow<'_>]) -> Result<Vec<Vec<f32>>> {
        self.forward_cancellable(rows, &CancelToken::new())
    }

    /// The same, until a token ends it.
    ///
    /// # Errors
    ///
    /// `InvalidInput` that names an unknown group and the known ones, or group,
    /// model and length of a row; otherwise those of
    /// [`BatchedInference::run_into`], which name the model.
    pub fn forward_cancellable(
        &self,
        rows: &[ModelRow<'_>],
        cancel: &CancelToken,
    ) -> Result<Vec<Vec<f32>>> {
        let mut by_group: BTreeMap<&str, Vec<(usize, usize)>> = BTreeMap::new();
        for (at, row) in rows.iter().enumerate() {
            let Some(group) = self.groups.get(row.group) else {
                let known: Vec<_> = self.names().collect();
                return Err(Error::invalid_input("group", known.join(", "), row.group));
            };
            group.check_index(row.model)?;
            let width = group.architecture().inputs();
            if row.inputs.len() != width {
                let what = format!("inputs of model {} of group `{}`", row.model, row.group);
                let found = row.inputs.len().to_string();
                return Err(Error::invalid_input(what, format!("{width} numbers"), found));
            }
            by_group.entry(row.group).or_default().push((row.model, at));
        }
        let mut outputs = vec![Vec::new(); rows.len()];
        for (name, mut members) in by_group {
            let Some(group) = self.groups.get(name) else { continue };
            members.sort_unstable();
            // A model once, with all of its rows: its weights are read once.
            let (mut models, mut counts) = (Vec::new(), Vec::new());
            for (model, _) in &members {
                match (models.last(), counts.last_mut()) {
                    (Some(last), Some(count)) if last == model => *count += 1,
                    _ => {
                        models.push(*model);
                        counts.push(1usize);
                    }
                }
            }
            let inputs: Vec<f32> =
                members.iter().flat_map(|(_, at)| rows[*at].inputs).copied().collect();
            let request =
                Request::new(&inputs).with_models(&models).with_rows(&counts).with_cancel(cancel);
            let all = group.run(&request)?;
            let width = group.architecture().outputs();
            for ((_, at), row) in members.iter().zip(all.chunks(width)) {
                outputs[*at] = row.to_vec();
            }
        }
        Ok(outputs)
    }
}
