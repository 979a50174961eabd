//! Which sequences are computed together, and in which step.

use inference_core::{Error, Result};

use crate::{BatchSize, Draws, TrainerOptions, TrainingData};

/// One step of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlannedStep {
    pub(crate) epoch: u64,
    /// Indices of sequences, for each forward pass.
    pub(crate) batches: Vec<Vec<usize>>,
}

/// All steps of a run. It depends on the options and the lengths of the data
/// alone, so that a run can be continued anywhere.
#[derive(Clone, Debug)]
pub(crate) struct BatchPlan {
    pub(crate) steps: Vec<PlannedStep>,
}

impl BatchPlan {
    /// The plan of a run.
    pub(crate) fn new(data: &TrainingData, options: &TrainerOptions) -> Result<Self> {
        let count = data.sequences.len();
        if count == 0 {
            return Err(Error::invalid_input("training data", "at least one sequence", "none"));
        }
        let most = options.max_steps.map_or(usize::MAX, |most| most as usize);
        let draws = Draws::new(options.lora.seed).stream(u64::MAX - 1);
        let mut steps = Vec::new();
        for epoch in 0..options.epochs {
            let order = match options.shuffle {
                true => draws.stream(epoch).permutation(count),
                false => (0..count).collect(),
            };
            let batches = batches(data, &order, options.batch_size);
            let each = usize::try_from(options.accumulation).unwrap_or(usize::MAX);
            let planned = |batches: &[Vec<usize>]| PlannedStep { epoch, batches: batches.to_vec() };
            steps.extend(batches.chunks(each).map(planned));
            if steps.len() >= most {
                break;
            }
        }
        steps.truncate(most);
        Ok(Self { steps })
    }
}

/// Batches of sequences in an order.
pub(crate) fn batches(data: &TrainingData, order: &[usize], size: BatchSize) -> Vec<Vec<usize>> {
    let most = match size {
        BatchSize::Sequences(count) => {
            return order.chunks(count.max(1)).map(<[usize]>::to_vec).collect();
        }
        BatchSize::Tokens(most) => most,
    };
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut tokens = 0;
    for index in order {
        let len = data.sequences.get(*index).map_or(0, |sequence| sequence.ids.len());
        match batches.last_mut() {
            Some(batch) if tokens + len <= most => {
                batch.push(*index);
                tokens += len;
            }
            _ => {
                batches.push(vec![*index]);
                tokens = len;
            }
        }
    }
    batches
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use inference_core::TrainingSequence;

    use super::*;

    fn data(lens: &[usize]) -> TrainingData {
        TrainingData::new(lens.iter().map(|len| TrainingSequence::new(vec![0; *len])).collect())
    }

    #[test]
    fn tokens_fill_batches() {
        let data = data(&[3, 4, 5, 20, 1]);
        let order = [0, 1, 2, 3, 4];
        let found = batches(&data, &order, BatchSize::Tokens(8));
        assert_eq!(found, [vec![0, 1], vec![2], vec![3], vec![4]]);
        let found = batches(&data, &order, BatchSize::Sequences(2));
        assert_eq!(found, [vec![0, 1], vec![2, 3], vec![4]]);
    }

    #[test]
    fn every_epoch_has_each_sequence_once() {
        let options = TrainerOptions::new()
            .with_epochs(3)
            .with_accumulation(2)
            .with_batch_size(BatchSize::Sequences(2));
        let plan = BatchPlan::new(&data(&[2; 9]), &options).unwrap();
        assert_eq!(plan.steps.len(), 9, "five batches, two a step");
        for epoch in 0..3 {
            let steps = plan.steps.iter().filter(|step| step.epoch == epoch);
            let mut all: Vec<usize> = steps.flat_map(|step| step.batches.concat()).collect();
            all.sort_unstable();
            assert_eq!(all, (0..9).collect::<Vec<_>>());
        }
        assert_ne!(plan.steps[0], plan.steps[3]);
        assert_eq!(
            BatchPlan::new(&data(&[2; 9]), &options.with_max_steps(4)).unwrap().steps.len(),
            4
        );
    }
}
