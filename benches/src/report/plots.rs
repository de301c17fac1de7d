//! The plots.

use std::{error::Error, path::Path};

use plotters::prelude::*;

use super::format::thousands;
use crate::{
    results::{Growth, Results, find},
    stacks::names::{self, BY_HAND, PLAIN_MAP},
};

const OURS: RGBColor = RGBColor(0x1f, 0x77, 0xb4);
const OTHERS: RGBColor = RGBColor(0x9a, 0xa5, 0xb1);
const MAP: RGBColor = RGBColor(0x2c, 0xa0, 0x2c);
const INK: RGBColor = RGBColor(0x24, 0x29, 0x2f);
const LINES: RGBColor = RGBColor(0xd8, 0xde, 0xe4);

const WIDTH: i32 = 900;
/// The left edge of the bars; their names stand before it.
const LEFT: i32 = 340;
const RIGHT: i32 = 90;
const ROW: i32 = 28;

type Drawn = Result<(), Box<dyn Error>>;

struct Bar {
    name: String,
    value: f64,
    text: String,
}

/// Draws the three plots of the report.
pub fn draw(results: &Results, folder: &Path) -> Drawn {
    let costs = results.compared.iter().map(|stack| Bar {
        name: stack.name.replace('`', ""),
        value: stack.ns(),
        text: format!("{} ns", thousands(stack.ns().round() as usize)),
    });
    let title = "One request through the layer, nanoseconds (logarithmic; less is better)";
    bars(
        &folder.join("cost.svg"),
        title,
        &costs.collect::<Vec<_>>(),
        true,
    )?;
    let servers = results.servers.iter().map(|server| {
        let none = &results.servers[0];
        let ratio = server.ratio_to(none, |server| &server.rates);
        Bar {
            name: server.name.replace('`', ""),
            value: ratio,
            text: format!("{ratio:.2} x"),
        }
    });
    let title = "A whole server on one core: requests a second beside no layer (more is better)";
    let servers = servers.collect::<Vec<_>>();
    bars(&folder.join("server.svg"), title, &servers, false)?;
    growth(results, &folder.join("growth.svg"))
}

fn bars(file: &Path, title: &str, bars: &[Bar], logarithmic: bool) -> Drawn {
    let height = ROW * bars.len() as i32 + 80;
    let root = SVGBackend::new(file, (WIDTH as u32, height as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    let text = ("sans-serif", 14).into_font().color(&INK);
    root.draw(&Text::new(
        title,
        (20, 16),
        ("sans-serif", 16).into_font().color(&INK),
    ))?;
    let values = || bars.iter().map(|bar| bar.value);
    let most = values().fold(f64::MIN_POSITIVE, f64::max);
    // A logarithmic axis has no zero: it begins at the power of ten below the least.
    let least = values().fold(most, f64::min);
    let begin = 10f64.powf(least.log10().floor());
    let place = |value: f64| {
        let part = match logarithmic {
            true => (value / begin).log10().max(0.0) / (most / begin).log10().max(1.0),
            false => value / most,
        };
        LEFT + (part * f64::from(WIDTH - LEFT - RIGHT)) as i32
    };
    if logarithmic {
        let mut tick = begin;
        while tick <= most {
            let at = place(tick);
            let line = vec![(at, 44), (at, height - 30)];
            root.draw(&PathElement::new(line, LINES))?;
            let label = thousands(tick as usize);
            root.draw(&Text::new(label, (at - 4, height - 26), text.clone()))?;
            tick *= 10.0;
        }
    }
    for (row, bar) in (0..).zip(bars) {
        let top = 46 + row * ROW;
        let color = if bar.name.starts_with("ours") {
            OURS
        } else {
            OTHERS
        };
        root.draw(&Text::new(bar.name.clone(), (20, top + 4), text.clone()))?;
        let corners = [(LEFT, top), (place(bar.value), top + ROW - 8)];
        root.draw(&Rectangle::new(corners, color.filled()))?;
        let after = (place(bar.value) + 6, top + 4);
        root.draw(&Text::new(bar.text.clone(), after, text.clone()))?;
    }
    root.present()?;
    Ok(())
}

fn growth(results: &Results, file: &Path) -> Drawn {
    let growths = &results.growths.growths;
    let sizes = || growths.iter().map(|growth| growth.sessions as f64);
    let stacks = || growths.iter().flat_map(|growth| &growth.stacks);
    let times = || stacks().map(|stack| stack.ns());
    if growths.is_empty() {
        return Ok(());
    }
    let root = SVGBackend::new(file, (WIDTH as u32, 420)).into_drawing_area();
    root.fill(&WHITE)?;
    let halves = root.split_evenly((1, 2));
    let range = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::MAX, 0.0), |(least, most): (f64, f64), value| {
            (least.min(value), most.max(value))
        })
    };
    let (fewest, most) = range(&mut sizes());
    let (_, slowest) = range(&mut times());
    for (half, order) in halves.iter().zip(["uniform", "Zipf"]) {
        let mut chart = ChartBuilder::on(half)
            .caption(
                format!("A hit, nanoseconds, by cached sessions: {order}"),
                ("sans-serif", 15).into_font().color(&INK),
            )
            .margin(12)
            .margin_right(40)
            .x_label_area_size(36)
            .y_label_area_size(48)
            .build_cartesian_2d((fewest..most).log_scale(), 0.0..slowest * 1.1)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .bold_line_style(LINES)
            .x_labels(4)
            .x_label_formatter(&|sessions| thousands(*sessions as usize))
            .y_label_formatter(&|ns| thousands(*ns as usize))
            .draw()?;
        for (stack, color) in [(BY_HAND, OTHERS), (PLAIN_MAP, MAP), (names::OURS, OURS)] {
            let points = points(growths, order, stack);
            let line = LineSeries::new(points, color.filled().stroke_width(3)).point_size(4);
            chart
                .draw_series(line)?
                .label(stack.replace('`', ""))
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 18, y)], color.stroke_width(3))
                });
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE)
            .border_style(LINES)
            .draw()?;
    }
    root.present()?;
    Ok(())
}

/// Draws lookups a second by the number of nodes.
pub fn fleet(lines: &[(String, Vec<(f64, f64)>)], file: &Path) -> Drawn {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let least = points().map(|point| point.1).fold(f64::MAX, f64::min);
    let most = points().map(|point| point.1).fold(0.0, f64::max);
    let nodes = points().map(|point| point.0).fold(1.0, f64::max);
    let root = SVGBackend::new(file, (WIDTH as u32, 420)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(
            "Lookups a second of 1,000 sessions in use, by nodes (both axes are logarithmic)",
            ("sans-serif", 15).into_font().color(&INK),
        )
        .margin(12)
        .margin_right(40)
        .x_label_area_size(36)
        .y_label_area_size(56)
        .build_cartesian_2d(
            (1.0..nodes).log_scale(),
            (least / 1.5..most * 1.5).log_scale(),
        )?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .bold_line_style(LINES)
        .x_label_formatter(&|nodes| thousands(*nodes as usize))
        .y_label_formatter(&|lookups| thousands(*lookups as usize))
        .draw()?;
    for ((name, points), color) in lines.iter().zip([OURS, MAP, INK, OTHERS]) {
        let line = LineSeries::new(points.clone(), color.filled().stroke_width(3)).point_size(4);
        chart
            .draw_series(line)?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(3)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE)
        .border_style(LINES)
        .draw()?;
    root.present()?;
    Ok(())
}

/// Returns sessions and nanoseconds of one stack.
fn points(growths: &[Growth], order: &str, stack: &str) -> Vec<(f64, f64)> {
    let growths = growths
        .iter()
        .filter(|growth| growth.order == order && growth.warmth == "warm");
    let points = growths.filter_map(|growth| {
        let stack = find(&growth.stacks, stack)?;
        Some((growth.sessions as f64, stack.ns()))
    });
    points.collect()
}
