// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The page of `bench --html`: two plots over the size of messages, and the table.

use super::{Bench, Test, HEADINGS};
use anyhow::{anyhow, Result};
use plotters::prelude::*;

const WIDTH: u32 = 860;
const HEIGHT: u32 = 460;
/// Told apart by people who do not see all colours, too.
const COLOURS: [RGBColor; 4] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(110, 110, 110),
];

/// The page, whole: it loads nothing.
///
/// # Errors
///
/// Nothing was measured.
pub fn html(bench: &Bench) -> Result<String> {
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>usb4rdma bench: {here} and {there}</title>\n\
         <style>body {{ font: 15px/1.5 sans-serif; max-width: {WIDTH}px; margin: 2em auto; padding: 0 1em }} \
         td, th {{ text-align: right; padding: 0 .8em }} td:first-child, th:first-child {{ text-align: left }} \
         svg {{ max-width: 100%; height: auto }}</style>\n<h1>{here} and {there} over USB4</h1>\n<p>{}</p>\n",
        escaped(&bench.conditions()),
        here = escaped(&bench.here.host),
        there = escaped(&bench.there.host),
    );
    for latency in [false, true] {
        if bench.rows.iter().any(|row| row.test.is_latency() == latency) {
            page += &plot(bench, latency)?;
        }
    }
    let line = |cell: &str, cells: &[String]| {
        let cells: String = cells.iter().map(|text| format!("<{cell}>{}", escaped(text))).collect();
        format!("<tr>{cells}</tr>\n")
    };
    page += "<table>\n";
    page += &line("th", &HEADINGS.map(str::to_lowercase));
    for row in &bench.rows {
        page += &line("td", &row.cells());
    }
    page += "</table>\n";
    for what in &bench.left_out {
        page += &format!("<p>left out: {}</p>\n", escaped(what));
    }
    Ok(page + "</html>\n")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// One plot as SVG: both axes logarithmic.
fn plot(bench: &Bench, latency: bool) -> Result<String> {
    let rows: Vec<_> = bench
        .rows
        .iter()
        .filter(|row| row.test.is_latency() == latency)
        .collect();
    let of =
        |f: &dyn Fn(f64, f64) -> f64, start: f64| rows.iter().map(|row| row.median).filter(|m| *m > 0.0).fold(start, f);
    let (low, high) = (of(&f64::min, f64::INFINITY), of(&f64::max, 0.0));
    if high <= 0.0 {
        return Ok(String::new());
    }
    let (title, unit) = match latency {
        true => ("Latency, one way, lower is better", "microseconds"),
        false => ("Bandwidth, one way, higher is better", "Gb/s"),
    };
    let sizes: Vec<f64> = rows.iter().map(|row| row.size as f64).collect();
    let least = sizes.iter().copied().fold(f64::INFINITY, f64::min);
    let most = sizes.iter().copied().fold(0.0, f64::max);
    let mut svg = String::new();
    {
        let failed = |error: &dyn std::fmt::Display| anyhow!("the plot: {error}");
        let area = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
        area.fill(&WHITE).map_err(|e| failed(&e))?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(
                (least * 0.8..most * 1.25).log_scale().base(2.0),
                (low * 0.7..high * 1.5).log_scale(),
            )
            .map_err(|e| failed(&e))?;
        chart
            .configure_mesh()
            .x_desc("bytes of a message")
            .y_desc(unit)
            .x_labels(12)
            .x_label_formatter(&|size| bytes(*size))
            .y_label_formatter(&|value| number(*value))
            .label_style(("sans-serif", 13))
            .axis_desc_style(("sans-serif", 15))
            .light_line_style(WHITE)
            .draw()
            .map_err(|e| failed(&e))?;
        let tests = Test::ALL.into_iter().filter(|test| test.is_latency() == latency);
        for (n, test) in tests.enumerate() {
            let points: Vec<(f64, f64)> = rows
                .iter()
                .filter(|row| row.test == test && row.median > 0.0)
                .map(|row| (row.size as f64, row.median))
                .collect();
            if points.is_empty() {
                continue;
            }
            let colour = if test.is_tcp() { COLOURS[3] } else { COLOURS[n % 3] };
            let line = LineSeries::new(points.clone(), colour.stroke_width(2));
            chart
                .draw_series(line)
                .map_err(|e| failed(&e))?
                .label(format!("{}\u{a0}\u{a0}", test.name().trim_end_matches(", latency")))
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], colour.stroke_width(2)));
            let dots = points.into_iter().map(|point| Circle::new(point, 3, colour.filled()));
            chart.draw_series(dots).map_err(|e| failed(&e))?;
        }
        chart
            .configure_series_labels()
            .position(match latency {
                true => SeriesLabelPosition::UpperLeft,
                false => SeriesLabelPosition::LowerRight,
            })
            .background_style(WHITE.mix(0.9))
            .border_style(RGBColor(180, 180, 180))
            .label_font(("sans-serif", 14))
            .draw()
            .map_err(|e| failed(&e))?;
        area.present().map_err(|e| failed(&e))?;
    }
    Ok(svg + "\n")
}

/// `64`, `4 KiB`, `1 MiB`
fn bytes(size: f64) -> String {
    match size {
        ..1024.0 => format!("{size:.0}"),
        ..1_048_576.0 => format!("{:.0} KiB", size / 1024.0),
        _ => format!("{:.0} MiB", size / 1_048_576.0),
    }
}

fn number(value: f64) -> String {
    match value {
        10.0.. => format!("{value:.0}"),
        1.0.. => format!("{value:.1}"),
        0.1.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
