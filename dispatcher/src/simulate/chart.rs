//! The figures of the policies as a picture: two panels in one SVG.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::{PolicyFigures, Report};

/// The picture's size, in pixels.
const SIZE: (u32, u32) = (1_200, 520);
/// Told apart by people who see colours differently (Okabe and Ito, 2008), in the order of the policies; then again.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];

/// The picture could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("draw the chart: {0}")]
pub struct Undrawn(String);

/// Draws, as an SVG document: left, which part of the functions has at most which cold share; right, each policy's cold
/// share at the 75th percentile over its memory.
///
/// # Errors
/// The drawing library failed.
pub fn svg(report: &Report) -> Result<String, Undrawn> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        let failed = |error: &dyn std::fmt::Display| Undrawn(error.to_string());
        area.fill(&WHITE).map_err(|error| failed(&error))?;
        let (left, right) = area.split_horizontally(SIZE.0 / 2);
        spread(&left, report).map_err(|error| failed(&error))?;
        trade(&right, report).map_err(|error| failed(&error))?;
        area.present().map_err(|error| failed(&error))?;
    }
    Ok(text)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

fn coloured(report: &Report) -> impl Iterator<Item = (&PolicyFigures, RGBColor)> {
    report.policies.iter().zip(COLOURS.into_iter().cycle())
}

fn spread<'a>(area: &Area<'a>, report: &Report) -> Drawn<'a> {
    let mut chart = ChartBuilder::on(area)
        .caption("cold share of the functions", ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..100.0, 0.0..100.0)?;
    chart
        .configure_mesh()
        .x_desc("% of a function's invocations that start cold")
        .y_desc("% of the functions")
        .draw()?;
    for (policy, colour) in coloured(report) {
        let line = steps(&policy.cold_shares);
        chart
            .draw_series(LineSeries::new(line, colour.stroke_width(2)))?
            .label(policy.name.clone())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.9))
        .border_style(BLACK.mix(0.3))
        .draw()
}

/// The steps of an empirical distribution, both in percent.
fn steps(ascending: &[f64]) -> Vec<(f64, f64)> {
    let of = ascending.len() as f64;
    let mut line = vec![(0.0, 0.0)];
    let mut reached = 0.0;
    for (nth, share) in (1_u32..).zip(ascending) {
        let next = 100.0 * f64::from(nth) / of;
        line.extend([(100.0 * share, reached), (100.0 * share, next)]);
        reached = next;
    }
    line.push((100.0, reached));
    line
}

fn trade<'a>(area: &Area<'a>, report: &Report) -> Drawn<'a> {
    let gb_hours = |policy: &PolicyFigures| policy.memory_mb_seconds / 1_024.0 / 3_600.0;
    let most = report.policies.iter().map(gb_hours).fold(0.0, f64::max);
    // Room for the labels at the right, and something to show where nothing ran.
    let most = if most > 0.0 { most * 1.25 } else { 1.0 };
    let mut chart = ChartBuilder::on(area)
        .caption("cold share over memory", ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..most, 0.0..105.0)?;
    chart
        .configure_mesh()
        .x_desc("memory of all workers, GB-hours")
        .y_desc("cold share of functions, 75th percentile, %")
        .draw()?;
    for (policy, colour) in coloured(report) {
        let at = (gb_hours(policy), 100.0 * policy.cold_share_p75);
        chart.draw_series([EmptyElement::at(at)
            + Circle::new((0, 0), 5, colour.filled())
            + Text::new(policy.name.clone(), (8, -6), ("sans-serif", 13).into_font())])?;
    }
    Ok(())
}
