//! Models of several architectures behind one call.

use std::sync::Arc;

use inference_batched::{
    Activation, Architecture, BatchedGroups, BatchedOptions, ModelRow, Workers,
};
use inference_core::{CancelToken, ErrorKind};

use crate::naive::{Random, group};

#[test]
fn rows_get_what_their_models_give_alone() {
    let workers = Workers::new(Some(2)).unwrap();
    let mut groups = BatchedGroups::new();
    for (name, widths) in [("wide", &[40, 64, 7][..]), ("small", &[4, 8, 2]), ("one", &[3, 1])] {
        let architecture = Architecture::mlp(widths, Activation::Tanh, Activation::None).unwrap();
        let options = BatchedOptions::new().with_workers(workers.clone());
        groups.insert(name, Arc::new(group(30, &architecture, &options, 6).0)).unwrap();
    }
    assert_eq!(groups.names().collect::<Vec<_>>(), ["one", "small", "wide"]);
    let mut random = Random(12);
    let names = ["wide", "small", "one"];
    let rows: Vec<(&str, usize, Vec<f32>)> = (0..200)
        .map(|_| {
            let name = names[random.bits() as usize % 3];
            let width = groups.get(name).unwrap().architecture().inputs();
            (name, random.bits() as usize % 30, random.numbers(width))
        })
        .collect();
    let rows: Vec<_> =
        rows.iter().map(|(name, model, inputs)| ModelRow::new(name, *model, inputs)).collect();
    let outputs = groups.forward(&rows).unwrap();
    for (row, output) in rows.iter().zip(&outputs) {
        let group = groups.get(row.group).unwrap();
        assert_eq!(*output, group.forward_subset(&[row.model], row.inputs).unwrap());
    }
    assert!(groups.forward(&[]).unwrap().is_empty());

    let refused = |row: ModelRow<'_>, parts: &[&str]| {
        let text = groups.forward(&[row]).unwrap_err().to_string();
        parts.iter().for_each(|part| assert!(text.contains(part), "`{text}` lacks `{part}`"));
    };
    refused(ModelRow::new("two", 0, &[0.0]), &["`two`".trim_matches('`'), "one, small, wide"]);
    refused(ModelRow::new("one", 30, &[0.0; 3]), &["0 to 29", "30"]);
    refused(ModelRow::new("one", 2, &[0.0; 4]), &["model 2 of group `one`", "3 numbers", "4"]);
    groups.get("one").unwrap().unload(2).unwrap();
    refused(ModelRow::new("one", 2, &[0.0; 3]), &["model 2", "none loaded"]);
    let token = CancelToken::new();
    token.cancel();
    let error = groups.forward_cancellable(&rows, &token).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    let again = Arc::clone(groups.get("one").unwrap());
    assert!(groups.insert("one", again).unwrap_err().to_string().contains("one"));
    assert!(groups.remove("one").is_some() && groups.get("one").is_none());
}
