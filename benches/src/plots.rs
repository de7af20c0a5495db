//! One plot per curve, as SVG.

use crate::figures::{Figures, Row};
use crate::{concurrency, growth, operations};
use plotters::prelude::*;
use std::path::Path;

/// A line of a plot: its name, its points, and whether it is what one compares with.
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
    floor: bool,
}

struct Plot {
    file: String,
    title: String,
    x: &'static str,
    y: &'static str,
    lines: Vec<Line>,
}

const COLOURS: [RGBColor; 6] = [
    RGBColor(0x1b, 0x6c, 0xa8),
    RGBColor(0xd9, 0x5f, 0x02),
    RGBColor(0x1b, 0x9e, 0x77),
    RGBColor(0x75, 0x70, 0xb3),
    RGBColor(0xe7, 0x29, 0x8a),
    RGBColor(0x66, 0x66, 0x66),
];

/// The points of those rows of a table for which `wanted` holds.
fn points(figures: &Figures, table: &str, x: &str, y: &str, wanted: impl Fn(&Row) -> bool) -> Vec<(f64, f64)> {
    let rows = figures.rows.iter().filter(|row| row.table == table && wanted(row));
    let mut points: Vec<(f64, f64)> = rows
        .filter_map(|row| Some((row.label(x).parse().ok()?, row.number(y).filter(|number| number.is_finite())?)))
        .collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points
}

/// The different values of a label in a table, in their order.
fn values(figures: &Figures, table: &str, label: &str) -> Vec<String> {
    let mut values: Vec<String> = Vec::new();
    for row in figures.rows.iter().filter(|row| row.table == table) {
        if !values.iter().any(|value| value == row.label(label)) {
            values.push(row.label(label).to_owned());
        }
    }
    values
}

pub(crate) fn draw(figures: &Figures, dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    for plot in by_depth(figures).into_iter().chain(by_layers(figures)).chain(starts(figures)).chain(by_threads(figures)) {
        if plot.lines.iter().any(|line| line.points.len() > 1) {
            write(&plot, dir);
        }
    }
}

/// Each operation by the depth of the chain, on each filesystem.
fn by_depth(figures: &Figures) -> Vec<Plot> {
    let table = operations::TABLE;
    let plot = |name: &&str| {
        let mut lines = Vec::new();
        for filesystem in values(figures, table, "on") {
            for sync in ["none", "full"] {
                if sync == "full" && !name.starts_with("create") && *name != "rm" {
                    continue; // nothing is forced to disk
                }
                let wanted = |row: &Row| {
                    row.label("operation") == *name
                        && row.label("on") == filesystem
                        && row.label("sync") == sync
                        && row.label("layers") == "1000"
                };
                let label = if sync == "full" { format!("{filesystem}, durable") } else { filesystem.clone() };
                let line = |name, y, floor| Line { name, points: points(figures, table, "depth", y, wanted), floor };
                if filesystem == "ext4" {
                    lines.push(line(format!("{label}, floor"), "floor µs", true));
                }
                lines.push(line(label, "µs", false));
            }
        }
        Plot {
            file: format!("depth-{name}.svg"),
            title: format!("{name}, by the depth of the chain"),
            x: "layers below",
            y: "µs",
            lines,
        }
    };
    operations::NAMES.iter().map(plot).collect()
}

/// All operations by the number of layers in the store.
fn by_layers(figures: &Figures) -> Vec<Plot> {
    let line = |name: &&str| {
        let wanted = |row: &Row| {
            row.label("operation") == *name
                && row.label("on") == "ext4"
                && row.label("sync") == "none"
                && row.label("depth") == "1"
        };
        Line { name: (*name).to_owned(), points: points(figures, operations::TABLE, "layers", "µs", wanted), floor: false }
    };
    let plot = |(file, names): (&str, &[&str])| Plot {
        file: format!("layers-{file}.svg"),
        title: "operations at depth 1 on ext4, by the layers in the store".to_owned(),
        x: "layers in the store",
        y: "µs",
        lines: names.iter().map(line).collect(),
    };
    vec![
        plot(("writing", &["create_ro", "create_rw", "mount", "umount", "rm", "init"])),
        plot(("asking", &["exists", "metadata", "usage", "status", "repair", operations::CHECK])),
    ]
}

fn starts(figures: &Figures) -> Vec<Plot> {
    let mut lines = Vec::new();
    for filesystem in values(figures, growth::TABLE, "on") {
        for (what, y) in [("init", "init ms"), ("with what is done in the background", "until the worker is done ms")] {
            let points = points(figures, growth::TABLE, "layers", y, |row| row.label("on") == filesystem);
            // A logarithmic axis has no zero.
            let points = points.into_iter().filter(|(layers, _)| *layers > 0.0).collect();
            lines.push(Line { name: format!("{filesystem}: {what}"), points, floor: false });
        }
    }
    let title = "start, by the layers in the store".to_owned();
    vec![Plot { file: "start.svg".into(), title, x: "layers in the store", y: "ms", lines }]
}

fn by_threads(figures: &Figures) -> Vec<Plot> {
    let mut plots = Vec::new();
    for (filesystem, sync) in [("tmpfs", "none"), ("ext4", "none"), ("ext4", "full")] {
        for beside in values(figures, concurrency::TABLE, "beside") {
            let line = |work: String| {
                let points = points(figures, concurrency::TABLE, "threads", "of one thread", |row| {
                    row.label("work") == work
                        && row.label("on") == filesystem
                        && row.label("sync") == sync
                        && row.label("beside") == beside
                });
                Line { name: work, points, floor: false }
            };
            let lines = values(figures, concurrency::TABLE, "work").into_iter().map(line).collect();
            plots.push(Plot {
                file: format!("threads-{filesystem}-{sync}-{}.svg", beside.replace(' ', "-")),
                title: format!("throughput relative to one thread, {filesystem}, sync={sync}, beside {beside}"),
                x: "threads",
                y: "times one thread",
                lines,
            });
        }
    }
    plots
}

/// Both axes are logarithmic: what is a straight line of slope one is linear.
fn write(plot: &Plot, dir: &Path) {
    let path = dir.join(&plot.file);
    let area = SVGBackend::new(&path, (760, 420)).into_drawing_area();
    area.fill(&WHITE).unwrap();
    let all = || plot.lines.iter().flat_map(|line| &line.points);
    let bounds = |of: fn(&(f64, f64)) -> f64, slack: f64| {
        let least = all().map(of).fold(f64::MAX, f64::min);
        let most = all().map(of).fold(f64::MIN, f64::max);
        least / slack..most * slack
    };
    let mut chart = ChartBuilder::on(&area)
        .caption(&plot.title, ("sans-serif", 17))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(bounds(|p| p.0, 1.0).log_scale(), bounds(|p| p.1, 1.3).log_scale())
        .unwrap();
    chart.configure_mesh().x_desc(plot.x).y_desc(plot.y).light_line_style(WHITE).draw().unwrap();
    for (n, line) in plot.lines.iter().filter(|line| !line.points.is_empty()).enumerate() {
        let colour = if line.floor { RGBColor(0xaa, 0xaa, 0xaa) } else { COLOURS[n % COLOURS.len()] };
        let style = colour.stroke_width(2);
        let drawn = chart.draw_series(LineSeries::new(line.points.iter().copied(), style)).unwrap();
        drawn.label(&line.name).legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
        chart.draw_series(line.points.iter().map(|point| Circle::new(*point, 3, colour.filled()))).unwrap();
    }
    let mut labels = chart.configure_series_labels();
    labels.position(SeriesLabelPosition::UpperLeft).background_style(WHITE.mix(0.8));
    labels.border_style(RGBColor(0xcc, 0xcc, 0xcc)).draw().unwrap();
    area.present().unwrap();
}
