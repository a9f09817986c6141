//! A chart as SVG: medians with their spread, the papers' values as dashed grey lines and crosses.

mod axis;
mod legend;

use plotters::prelude::*;

use axis::{Axis, Marked};
use legend::{Legend, Sign};

use crate::experiments::{AxisKind, Chart, Experiment, PublishedShape};
use crate::record::{Metric, Results, Status};

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Context<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<Marked, Marked>>;

/// Pixels, without the legend.
const SIZE: (u32, u32) = (820, 440);
const COLORS: [RGBColor; 10] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 39, 40),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
    RGBColor(255, 127, 14),
    RGBColor(23, 190, 207),
    RGBColor(140, 86, 75),
    RGBColor(227, 119, 194),
    RGBColor(188, 189, 34),
    RGBColor(80, 80, 80),
];
const THEIRS: RGBColor = RGBColor(110, 110, 110);
/// Width of a bar, of one category's.
const BARS: f64 = 0.7;

/// A line on the chart: its name and x, median, least, most.
struct Line {
    name: String,
    points: Vec<[f64; 4]>,
}

/// The name of a chart's file.
pub fn file_name(experiment: &Experiment, chart: &Chart) -> String {
    format!("{}-{}.svg", experiment.name, chart.metric.name())
}

/// What the y axis shows.
pub fn y_label(experiment: &Experiment, chart: &Chart) -> String {
    match chart.metric {
        Metric::Value => experiment.unit.to_string(),
        Metric::P50 => "median latency, µs".to_string(),
        Metric::P99 => "p99 latency, µs".to_string(),
        Metric::P99OfDisk => "p99 latency, × fdatasync p99".to_string(),
        Metric::HitP50 => "median latency of hits, µs".to_string(),
        Metric::MissP50 => "median latency of misses, µs".to_string(),
    }
}

/// The chart's SVG text.
pub fn svg(experiment: &Experiment, chart: &Chart, results: &Results) -> anyhow::Result<String> {
    let mut text = String::new();
    let area =
        SVGBackend::with_string(&mut text, (SIZE.0 + legend::WIDTH, SIZE.1)).into_drawing_area();
    draw(&area, experiment, chart, results)
        .map_err(|error| anyhow::anyhow!("{}: {error}", file_name(experiment, chart)))?;
    area.present()?;
    drop(area);
    Ok(text)
}

fn draw<'a>(
    area: &Area<'a>,
    experiment: &Experiment,
    chart: &Chart,
    results: &Results,
) -> anyhow::Result<()> {
    area.fill(&WHITE)?;
    let (area, beside) = area.split_horizontally(SIZE.0);
    let mut legend = Legend::default();
    let (x_axis, y_axis) = (
        Axis {
            log: experiment.x.kind == AxisKind::Log,
        },
        Axis { log: chart.log },
    );
    let lines = lines(experiment, chart, results);
    let (x_range, y_range) = ranges(experiment, chart, &lines, &x_axis, &y_axis);
    let labels = categories(experiment);
    let x_marks = x_marks(experiment, &labels, &x_axis, x_range);
    let y_marks = y_axis.marks(y_range.0, y_range.1);
    let mut context = ChartBuilder::on(&area)
        .margin(8)
        .caption(
            format!("{}: {}", experiment.title, y_label(experiment, chart)),
            ("sans-serif", 17),
        )
        .x_label_area_size(46)
        .y_label_area_size(76)
        .build_cartesian_2d(Marked::new(x_range, x_marks), Marked::new(y_range, y_marks))?;
    let x_label = |at: &f64| match experiment.x.kind {
        AxisKind::Category => {
            let near = labels.iter().find(|(x, _)| (x - at).abs() < 0.01);
            near.map_or(String::new(), |(_, label)| label.clone())
        }
        _ => x_axis.label(*at),
    };
    context
        .configure_mesh()
        .light_line_style(RGBColor(245, 245, 245))
        .x_desc(experiment.x.label)
        .x_label_formatter(&x_label)
        .y_label_formatter(&|at| y_axis.label(*at))
        .draw()?;
    series(
        &mut context,
        &mut legend,
        &lines,
        experiment,
        chart,
        (&x_axis, &y_axis),
        y_range.0,
    )?;
    theirs(
        &mut context,
        &mut legend,
        chart,
        results,
        (&x_axis, &y_axis),
        x_range,
    )?;
    events(&mut context, chart, y_range)?;
    legend.draw(&beside)
}

fn x_marks(
    experiment: &Experiment,
    labels: &[(f64, String)],
    axis: &Axis,
    (low, high): (f64, f64),
) -> Vec<f64> {
    match experiment.x.kind {
        AxisKind::Category => labels.iter().map(|(x, _)| *x).collect(),
        AxisKind::Log => axis.marks_at(experiment.points.iter().map(|point| point.x), low, high),
        AxisKind::Linear => axis.marks(low, high),
    }
}

fn series(
    context: &mut Context<'_, '_>,
    legend: &mut Legend,
    lines: &[Line],
    experiment: &Experiment,
    chart: &Chart,
    axes: (&Axis, &Axis),
    bottom: f64,
) -> anyhow::Result<()> {
    for (number, line) in lines.iter().enumerate() {
        let color = COLORS[number % COLORS.len()];
        match experiment.x.kind {
            AxisKind::Category => {
                bars(context, line, color, axes.1, bottom)?;
                legend.add(Sign::Bar(color), &line.name);
            }
            _ => {
                let width = if chart.each_repeat { 1 } else { 2 };
                let style = ShapeStyle::from(color).stroke_width(width);
                curve(context, line, style, axes, chart.each_repeat)?;
                legend.add(Sign::Line(style), &line.name);
            }
        }
    }
    Ok(())
}

/// Labels of a category axis, once each.
fn categories(experiment: &Experiment) -> Vec<(f64, String)> {
    let mut found: Vec<(f64, String)> = Vec::new();
    for point in &experiment.points {
        if !found.iter().any(|(x, _)| *x == point.x) {
            found.push((point.x, point.label.clone()));
        }
    }
    found
}

fn lines(experiment: &Experiment, chart: &Chart, results: &Results) -> Vec<Line> {
    let mut found = Vec::new();
    for series in results.series() {
        if chart.each_repeat {
            let of = |r: &&crate::record::Record| r.series == series && r.status == Status::Ok;
            for record in results.records.iter().filter(of) {
                let rows = record.rows.iter();
                let points = rows.filter_map(|row| chart.metric.of(row).map(|y| [row.x, y, y, y]));
                found.push(Line {
                    name: format!("{series}, run {}", record.repeat),
                    points: points.collect(),
                });
            }
            continue;
        }
        let spreads = results.spreads(series, chart.metric);
        let points = spreads.iter().map(|(x, s)| [*x, s.median, s.min, s.max]);
        found.push(Line {
            name: series.to_string(),
            points: points.collect(),
        });
    }
    if experiment.x.kind == AxisKind::Category {
        beside(&mut found);
    }
    found.retain(|line| !line.points.is_empty());
    found
}

/// Bars of one category stand beside each other.
fn beside(lines: &mut [Line]) {
    let all: Vec<Vec<f64>> = lines
        .iter()
        .map(|l| l.points.iter().map(|p| p[0]).collect())
        .collect();
    for (number, line) in lines.iter_mut().enumerate() {
        for point in &mut line.points {
            let here = |xs: &&Vec<f64>| xs.contains(&point[0]);
            let count = all.iter().filter(here).count() as f64;
            let before = all[..number].iter().filter(here).count() as f64;
            point[0] += BARS * ((before + 0.5) / count - 0.5);
        }
    }
}

fn ranges(
    experiment: &Experiment,
    chart: &Chart,
    lines: &[Line],
    x_axis: &Axis,
    y_axis: &Axis,
) -> ((f64, f64), (f64, f64)) {
    let points = || lines.iter().flat_map(|line| &line.points);
    let mut xs: Vec<f64> = points().map(|p| x_axis.to(p[0])).collect();
    let mut ys: Vec<f64> = points().flat_map(|p| [p[2], p[3]]).collect();
    for published in &chart.published {
        match &published.shape {
            PublishedShape::Level(y) => ys.push(*y),
            PublishedShape::At(x, y) => {
                ys.push(*y);
                xs.push(x_axis.to(*x));
            }
            PublishedShape::TimesOf(..) => {}
        }
    }
    let mut ys: Vec<f64> = ys.into_iter().map(|y| y_axis.to(y)).collect();
    let ends = |values: &[f64]| {
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if low.is_finite() {
            (low, high)
        } else {
            (0.0, 1.0)
        }
    };
    if !y_axis.log {
        ys.push(0.0);
    }
    let (x, y) = (ends(&xs), ends(&ys));
    let x_margin = match experiment.x.kind {
        AxisKind::Category => 0.6,
        _ => ((x.1 - x.0) * 0.04).max(0.05),
    };
    let y_margin = ((y.1 - y.0) * 0.08).max(0.05);
    let bottom = if y_axis.log { y.0 - y_margin } else { 0.0 };
    // Room for what happened.
    let above = if chart.events.is_empty() { 1.0 } else { 3.0 };
    (
        (x.0 - x_margin, x.1 + x_margin),
        (bottom, y.1 + above * y_margin),
    )
}

fn curve(
    context: &mut Context<'_, '_>,
    line: &Line,
    style: ShapeStyle,
    (x_axis, y_axis): (&Axis, &Axis),
    thin: bool,
) -> anyhow::Result<()> {
    let place = |x: f64, y: f64| (x_axis.to(x), y_axis.to(y));
    let points = line.points.iter().map(|p| place(p[0], p[1]));
    context.draw_series(LineSeries::new(points, style))?;
    if thin {
        return Ok(());
    }
    let dots = line
        .points
        .iter()
        .map(|p| Circle::new(place(p[0], p[1]), 3, style.filled()));
    context.draw_series(dots)?;
    let spreads = line.points.iter();
    let spreads = spreads.map(|p| {
        PathElement::new(
            vec![place(p[0], p[2]), place(p[0], p[3])],
            style.stroke_width(1),
        )
    });
    context.draw_series(spreads)?;
    Ok(())
}

fn bars(
    context: &mut Context<'_, '_>,
    line: &Line,
    color: RGBColor,
    y_axis: &Axis,
    bottom: f64,
) -> anyhow::Result<()> {
    let half = 0.06;
    let bar = |p: &[f64; 4]| {
        Rectangle::new(
            [(p[0] - half, bottom), (p[0] + half, y_axis.to(p[1]))],
            color.mix(0.8).filled(),
        )
    };
    context.draw_series(line.points.iter().map(bar))?;
    let spread = |p: &[f64; 4]| {
        PathElement::new(
            vec![(p[0], y_axis.to(p[2])), (p[0], y_axis.to(p[3]))],
            BLACK,
        )
    };
    context.draw_series(line.points.iter().map(spread))?;
    Ok(())
}

fn theirs(
    context: &mut Context<'_, '_>,
    legend: &mut Legend,
    chart: &Chart,
    results: &Results,
    (x_axis, y_axis): (&Axis, &Axis),
    (left, right): (f64, f64),
) -> anyhow::Result<()> {
    let dashes = ShapeStyle::from(THEIRS).stroke_width(1);
    for published in &chart.published {
        let label = published.label;
        let line = |points: Vec<(f64, f64)>| DashedLineSeries::new(points, 7, 5, dashes);
        match &published.shape {
            PublishedShape::Level(y) => {
                let y = y_axis.to(*y);
                context.draw_series(line(vec![(left, y), (right, y)]))?;
                legend.add(Sign::Dashes, label);
            }
            PublishedShape::At(x, y) => {
                let cross = Cross::new((x_axis.to(*x), y_axis.to(*y)), 6, dashes.stroke_width(2));
                context.draw_series(std::iter::once(cross))?;
                legend.add(Sign::Cross, label);
            }
            PublishedShape::TimesOf(series, from, to) => {
                let medians = results.spreads(series, chart.metric);
                let scaled = |times: f64| -> Vec<(f64, f64)> {
                    let scaled = medians
                        .iter()
                        .map(|(x, s)| (x_axis.to(*x), y_axis.to(s.median * times)));
                    scaled.collect()
                };
                context.draw_series(line(scaled(*from)))?;
                legend.add(Sign::Dashes, label);
                if from != to {
                    context.draw_series(line(scaled(*to)))?;
                }
            }
        }
    }
    Ok(())
}

fn events(
    context: &mut Context<'_, '_>,
    chart: &Chart,
    (low, high): (f64, f64),
) -> anyhow::Result<()> {
    for (number, (at, what)) in chart.events.iter().enumerate() {
        let line = vec![(*at, low), (*at, high)];
        context.draw_series(DashedLineSeries::new(line, 3, 3, ShapeStyle::from(BLACK)))?;
        let height = high - (high - low) * (0.03 + 0.05 * (number % 3) as f64);
        let text = Text::new(what.clone(), (*at, height), ("sans-serif", 12));
        context.draw_series(std::iter::once(text))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiments::{all, papers};
    use crate::record::tests::record;
    use crate::scale::Scale;

    #[test]
    fn every_chart_can_be_drawn_with_and_without_records() {
        for experiment in all(Scale::Default) {
            let mut records = Vec::new();
            for repeat in 1..=2 {
                for point in &experiment.points {
                    let mut record =
                        record(&point.series, point.x, repeat, 100.0 * f64::from(repeat), 1);
                    record.rows[0].latency = Some(crate::record::Latency {
                        p50: 10,
                        p95: 20,
                        p99: 30,
                        p999: 40,
                        max: 50,
                    });
                    records.push(record);
                }
            }
            for records in [records, Vec::new()] {
                let empty = records.is_empty();
                let results = Results { records };
                for chart in &experiment.charts {
                    let text = svg(&experiment, chart, &results).unwrap();
                    assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"));
                    let named = results.series().into_iter().all(|s| text.contains(s));
                    assert!(named, "{}: a series has no name", experiment.name);
                    let theirs = chart.published.iter().all(|p| text.contains(p.label));
                    assert!(
                        theirs,
                        "{}: a published value is not shown",
                        experiment.name
                    );
                    assert!(!empty || !text.contains("<circle"));
                }
            }
        }
    }

    #[test]
    fn a_value_of_the_papers_widens_the_axis() {
        let mut all = all(Scale::Smoke);
        let experiment = &mut all[0];
        experiment.charts = vec![Chart::log(Metric::Value).with(papers::level("theirs", 1e6))];
        let records = vec![record("a", 10.0, 1, 5.0, 1)];
        let text = svg(experiment, &experiment.charts[0], &Results { records }).unwrap();
        assert!(text.contains("1,000,000"), "the axis reaches their value");
    }
}
