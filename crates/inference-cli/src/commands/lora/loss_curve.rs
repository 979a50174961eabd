//! The losses of a run as a picture.

use std::io;
use std::path::Path;

use plotters::prelude::*;
use serde_json::Value;

/// Losses by step.
#[derive(Debug, Default)]
pub(crate) struct LossCurve {
    training: Vec<(u64, f64)>,
    evaluation: Vec<(u64, f64)>,
}

impl LossCurve {
    /// Those of `metrics.jsonl`, where it is there.
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let mut curve = Self::default();
        // A line that was cut off by the end of a process is not drawn.
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).for_each(|v| curve.add(&v));
        Ok(curve)
    }

    /// Adds an event's loss; steps that were taken again count once.
    pub(crate) fn add(&mut self, event: &Value) {
        let (Some(step), Some(loss)) = (event["step"].as_u64(), event["loss"].as_f64()) else {
            return;
        };
        let points = match event["event"].as_str() {
            Some("step") => &mut self.training,
            Some("evaluation") => &mut self.evaluation,
            _ => return,
        };
        points.retain(|(known, _)| *known < step);
        points.push((step, loss));
    }
}

type Drawn = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Draws the curve as SVG.
pub(crate) fn draw(path: &Path, curve: &LossCurve) -> Drawn {
    let mut svg = String::new();
    draw_on(&mut svg, curve)?;
    Ok(std::fs::write(path, svg)?)
}

fn draw_on(svg: &mut String, curve: &LossCurve) -> Drawn {
    let points = || curve.training.iter().chain(&curve.evaluation);
    let last = points().map(|(step, _)| *step).max().unwrap_or(1).max(2);
    let top = points().map(|(_, loss)| *loss).fold(0.0, f64::max).max(1e-3) * 1.05;
    let area = SVGBackend::with_string(svg, (800, 480)).into_drawing_area();
    let fail = |error: DrawingAreaErrorKind<_>| error.to_string();
    area.fill(&WHITE).map_err(fail)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(16)
        .x_label_area_size(36)
        .y_label_area_size(52)
        .build_cartesian_2d(1..last, 0.0..top)
        .map_err(fail)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("step")
        .y_desc("loss, nats per token")
        .draw()
        .map_err(fail)?;
    for (points, colour, name) in
        [(&curve.training, BLUE, "training"), (&curve.evaluation, RED, "evaluation")]
    {
        if points.is_empty() {
            continue;
        }
        chart
            .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))
            .map_err(fail)?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
    }
    chart.configure_series_labels().border_style(BLACK).draw().map_err(fail)?;
    area.present().map_err(fail)?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;

    #[test]
    fn a_curve_has_every_step_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let lines = "{\"event\":\"step\",\"step\":1,\"loss\":2.0}\n\
                     {\"event\":\"step\",\"step\":2,\"loss\":1.5}\n\
                     {\"event\":\"evaluation\",\"step\":2,\"loss\":1.6}\n\
                     {\"event\":\"step\",\"step\":2,\"loss\":1.4}\n{\"event\":\"st";
        std::fs::write(&path, lines).unwrap();
        let curve = LossCurve::read(&path).unwrap();
        assert_eq!(curve.training, [(1, 2.0), (2, 1.4)]);
        assert_eq!(curve.evaluation, [(2, 1.6)]);
        let picture = folder.path().join("loss.svg");
        draw(&picture, &curve).unwrap();
        let svg = std::fs::read_to_string(picture).unwrap();
        assert!(svg.contains("polyline") && svg.contains("evaluation"));
        draw(&folder.path().join("empty.svg"), &LossCurve::default()).unwrap();
    }
}
