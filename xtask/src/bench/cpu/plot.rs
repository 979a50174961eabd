//! Tokens per second against depth and against sequences at once.

use std::path::{Path, PathBuf};

use plotters::prelude::*;

use super::results::Results;
use super::row::Row;
use crate::Result;

const SIZE: (u32, u32) = (720, 420);
/// Told apart by people who confuse red and green as well (Okabe and Ito).
const COLOURS: [RGBColor; 7] = [
    RGBColor(213, 94, 0),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];

/// One engine's points, ascending.
#[derive(Debug, PartialEq)]
struct Curve {
    engine: String,
    points: Vec<(f64, f64)>,
}

/// The place of a row on a plot's axis; `None`: it is not on it.
type Place = fn(Row) -> Option<usize>;

/// Writes a plot of each kind that has at least two points on some line; the
/// files.
pub(super) fn write(results: &Results, folder: &Path) -> Result<Vec<PathBuf>> {
    std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut written = Vec::new();
    let kinds: [(&str, &str, &str, Place); 3] = [
        ("prefill-depth", "Prefill", "tokens before it", |row| match row {
            Row::Prefill { depth, .. } => Some(depth),
            Row::Decode { .. } => None,
        }),
        ("decode-depth", "Decode", "tokens before it", |row| match row {
            Row::Decode { depth, batch: None } => Some(depth),
            _ => None,
        }),
        ("decode-batch", "Decode", "sequences at once", |row| match row {
            Row::Decode { batch, .. } => batch,
            Row::Prefill { .. } => None,
        }),
    ];
    for (kind, what, axis, place) in kinds {
        let curves = curves(results, place);
        if curves.iter().all(|curve| curve.points.len() < 2) {
            continue;
        }
        let stem = results.model().replace(['/', ' '], "-");
        let path = folder.join(format!("{stem}-{kind}.svg"));
        let title = format!("{what}, {}", results.model());
        draw(&path, &title, axis, &curves)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        written.push(path);
    }
    Ok(written)
}

fn curves(results: &Results, place: fn(Row) -> Option<usize>) -> Vec<Curve> {
    let curve = |(index, engine): (usize, &String)| {
        let point = |row: &Row| Some((place(*row)? as f64, results.median(index, *row)?));
        let mut points: Vec<_> = results.rows().iter().filter_map(point).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Curve { engine: engine.clone(), points }
    };
    results.engines().iter().enumerate().map(curve).filter(|c| !c.points.is_empty()).collect()
}

fn draw(path: &Path, title: &str, axis: &str, curves: &[Curve]) -> Result<()> {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let right = points().map(|point| point.0).fold(1.0, f64::max);
    let top = points().map(|point| point.1).fold(0.0, f64::max) * 1.15;
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..right * 1.03, 0.0..top)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc(axis)
        .y_desc("tokens per second")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .draw()?;
    for (curve, colour) in curves.iter().zip(COLOURS.iter().cycle()) {
        let line = colour.stroke_width(2);
        chart
            .draw_series(LineSeries::new(curve.points.iter().copied(), line).point_size(4))?
            .label(&curve.engine)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], line));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(TRANSPARENT)
        .draw()?;
    root.present()?;
    Ok(())
}
