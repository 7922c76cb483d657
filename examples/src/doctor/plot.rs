//! Latency by size: windows beside the twin, over the path that is chosen.

use std::error::Error;
use std::fs;
use std::path::Path;

use plotters::prelude::*;

use super::collectives::Point;
use super::report::{Finding, Level, Report};
use super::text::size;

const SIZE: (u32, u32) = (1260, 800);
const WINDOW: RGBColor = RGBColor(0x1F, 0x77, 0xB4);
const TWIN: RGBColor = RGBColor(0xD9, 0x6A, 0x0B);
/// How much of a path's colour its area has.
const SHADE: f64 = 0.14;

/// Draws the calibration into a file.
pub(super) fn draw(report: &Report, file: &Path) -> Finding {
    let points = report.collectives.found.calibration.as_ref();
    let points = points.map_or(&[][..], |calibration| &calibration.points);
    if points.is_empty() {
        return Finding {
            level: Level::Note,
            what: format!("{} was not drawn: nothing was measured", file.display()),
            change: None,
        };
    }
    let drawn = svg(&heading(report), points).and_then(|svg| Ok(fs::write(file, svg)?));
    match drawn {
        Ok(()) => Finding {
            level: Level::Good,
            what: format!("latency by size is in {}", file.display()),
            change: None,
        },
        Err(error) => Finding {
            level: Level::Change,
            what: format!("{} could not be written: {error}", file.display()),
            change: Some("name a file that can be written".into()),
        },
    }
}

fn heading(report: &Report) -> String {
    match (
        report.backend,
        report.gpus.gpus.first(),
        &report.nccl.version,
    ) {
        ("cuda", Some(gpu), Some(nccl)) => {
            format!("{} x {}, NCCL {nccl}", report.ranks, gpu.name)
        }
        _ => format!(
            "{} ranks of the host backend, times of a made-up model",
            report.ranks
        ),
    }
}

/// A panel for each operation and types.
fn svg(heading: &str, points: &[Point]) -> Result<String, Box<dyn Error>> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let root = root.titled(heading, ("sans-serif", 22))?;
        let mut rows: Vec<Vec<&Point>> = Vec::new();
        for point in points {
            let of = |row: &&mut Vec<&Point>| {
                (&row[0].operation, &row[0].types) == (&point.operation, &point.types)
            };
            match rows.iter_mut().find(of) {
                Some(row) => row.push(point),
                None => rows.push(vec![point]),
            }
        }
        let panels = root.split_evenly((2, rows.len().div_ceil(2)));
        for (row, panel) in rows.iter().zip(&panels) {
            draw_row(row, panel)?;
        }
        root.present()?;
    }
    Ok(text)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw_row(row: &[&Point], panel: &Area<'_>) -> Result<(), Box<dyn Error>> {
    let octave = |bytes: u64| (bytes.max(1) as f64).log2();
    let (first, last) = (octave(row[0].bytes), octave(row[row.len() - 1].bytes));
    let times = row
        .iter()
        .flat_map(|point| [point.windowed_us, point.twin_us]);
    let (low, high) = times.fold((f64::MAX, 0.0), |(low, high): (f64, f64), us| {
        (low.min(us), high.max(us))
    });
    // A clock that stands still has no logarithm.
    let (low, high) = (low.max(1e-2) / 1.5, high.max(1e-1) * 1.5);
    let mut chart = ChartBuilder::on(panel)
        .caption(
            format!("{} {}", row[0].operation, row[0].types),
            ("sans-serif", 17),
        )
        .margin(10)
        .x_label_area_size(32)
        .y_label_area_size(48)
        .build_cartesian_2d(first - 0.5..last + 0.5, (low..high).log_scale())?;
    let shades = row.iter().map(|point| {
        let (at, color) = (octave(point.bytes), if point.twin { TWIN } else { WINDOW });
        let corners = [(at - 0.5, low), (at + 0.5, high)];
        Rectangle::new(corners, color.mix(SHADE).filled())
    });
    chart.draw_series(shades)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(9)
        .x_label_formatter(&|octave| size(2f64.powf(*octave).round() as u64))
        .y_label_formatter(&|us| format!("{us}"))
        .y_desc("us")
        .draw()?;
    let line = |of: fn(&Point) -> f64| {
        row.iter()
            .map(move |point| (octave(point.bytes), of(point).max(low)))
    };
    let lines: [(&str, RGBColor, fn(&Point) -> f64); 2] = [
        ("windows", WINDOW, |point| point.windowed_us),
        ("twin", TWIN, |point| point.twin_us),
    ];
    for (name, color, of) in lines {
        chart
            .draw_series(LineSeries::new(line(of), color.stroke_width(2)).point_size(3))?
            .label(format!("{name} (shaded where chosen)"))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .draw()?;
    Ok(())
}
