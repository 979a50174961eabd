//! What a call evaluates.

use inference_core::{CancelToken, Error, Result};

/// Which models a call evaluates, with which inputs.
///
/// ```
/// use inference_batched::Request;
///
/// // Two rows for model 7, none for model 3, one for model 9.
/// let inputs = [0.0; 3 * 4];
/// let request = Request::new(&inputs).with_models(&[7, 3, 9]).with_rows(&[2, 0, 1]);
/// # let _ = request;
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Request<'a> {
    /// Rows of inputs, model by model, each as long as the architecture's
    /// inputs.
    pub inputs: &'a [f32],
    /// The models, in the order of their rows; a model may come more than
    /// once. `None`: all of them. Ascending indices are the fastest.
    pub models: Option<&'a [usize]>,
    /// How many rows each of the models has; none needs no weights. `None`:
    /// one each.
    pub rows: Option<&'a [usize]>,
    /// Ends the call between two layers.
    pub cancel: Option<&'a CancelToken>,
}

impl<'a> Request<'a> {
    /// One row for each of all models.
    #[must_use]
    pub fn new(inputs: &'a [f32]) -> Self {
        Self { inputs, models: None, rows: None, cancel: None }
    }

    /// Some models only.
    #[must_use]
    pub fn with_models(mut self, models: &'a [usize]) -> Self {
        self.models = Some(models);
        self
    }

    /// Other than one row per model.
    #[must_use]
    pub fn with_rows(mut self, rows: &'a [usize]) -> Self {
        self.rows = Some(rows);
        self
    }

    /// A token that ends the call.
    #[must_use]
    pub fn with_cancel(mut self, cancel: &'a CancelToken) -> Self {
        self.cancel = Some(cancel);
        self
    }

    /// How many models the request names, of `num_models`.
    pub(crate) fn positions(&self, num_models: usize) -> usize {
        self.models.map_or(num_models, <[_]>::len)
    }

    /// The model at a position.
    #[inline]
    pub(crate) fn model(&self, position: usize) -> usize {
        self.models.map_or(position, |models| models[position])
    }

    /// The number of rows at a position.
    #[inline]
    pub(crate) fn count(&self, position: usize) -> usize {
        self.rows.map_or(1, |rows| rows[position])
    }

    /// Checks indices, counts and the length of the inputs; the number of all
    /// rows.
    pub(crate) fn check(&self, num_models: usize, inputs: usize) -> Result<usize> {
        if let Some(models) = self.models
            && let Some(at) = models.iter().position(|model| *model >= num_models)
        {
            return Err(out_of_range(models[at], num_models));
        }
        let positions = self.positions(num_models);
        if let Some(rows) = self.rows
            && rows.len() != positions
        {
            let expected = format!("{positions}, one per model of the call");
            return Err(Error::invalid_input("row counts", expected, rows.len().to_string()));
        }
        let rows = self.rows.map_or(Some(positions), |rows| {
            rows.iter().try_fold(0usize, |sum, rows| sum.checked_add(*rows))
        });
        let numbers = rows.and_then(|rows| rows.checked_mul(inputs));
        match (rows, numbers) {
            (Some(rows), Some(numbers)) if numbers == self.inputs.len() => Ok(rows),
            _ => {
                let rows = rows.map_or("too many".to_owned(), |rows| rows.to_string());
                let expected = format!("{rows} rows of {inputs} numbers");
                let found = format!("{} numbers", self.inputs.len());
                Err(Error::invalid_input("inputs", expected, found))
            }
        }
    }
}

/// No model has this index.
pub(crate) fn out_of_range(model: usize, num_models: usize) -> Error {
    let expected = match num_models.checked_sub(1) {
        Some(last) => format!("0 to {last}"),
        None => "nothing, as there are no models".to_owned(),
    };
    Error::invalid_input("model index", expected, model.to_string())
}

/// A model that was asked for and has no weights.
pub(crate) fn not_loaded(model: usize) -> Error {
    Error::invalid_input(format!("model {model}"), "a model with weights", "none loaded")
}
