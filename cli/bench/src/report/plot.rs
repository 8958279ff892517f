//! The latencies of a report as a picture: a line for each row, from the median to the farthest tail, on a scale on
//! which ten times as long is always as far.

use anyhow::{Context, bail};
use plotters::coord::ranged1d::IntoSegmentedCoord;
use plotters::prelude::*;

use super::table::mitigations;
use super::{ForkReport, IdleReport, LoadReport, Report};
use crate::machine::Machine;
use crate::recorder::QUANTILES;

const WIDTH_PIXELS: u32 = 1100;
const HEIGHT_PIXELS: u32 = 640;
/// The legend is beside the picture and as high.
const LINE_PIXELS: u32 = 18;
const COLOURS: usize = 24;

/// What is drawn: a value at some places for each series.
struct Chart {
    title: &'static str,
    unit: &'static str,
    places: Vec<String>,
    series: Vec<(String, Vec<Option<f64>>)>,
}

/// Draws a report.
pub(super) fn svg(report: &Report) -> anyhow::Result<String> {
    let (chart, machine) = match report {
        Report::Load(report) => (of_load(report), &report.machine),
        Report::Idle(report) => (of_idle(report), &report.machine),
        Report::Fork(report) => (of_fork(report), &report.machine),
    };
    chart.draw(machine)
}

fn of_load(report: &LoadReport) -> Chart {
    let series = |row: &super::Row| {
        let values = row.latency.values().map(|value| Some(value.median)).into();
        (format!("{}, {}", row.system, row.setting), values)
    };
    Chart {
        title: "Latency, medians of the rounds",
        unit: "µs",
        places: QUANTILES.map(|(_, name)| name.to_owned()).into(),
        series: report.rows.iter().map(series).collect(),
    }
}

fn of_idle(report: &IdleReport) -> Chart {
    Chart {
        title: "Processor time of idle nodes",
        unit: "% of a core",
        places: report.rows.iter().map(|row| row.system.clone()).collect(),
        series: vec![("node".to_owned(), report.rows.iter().map(|row| Some(row.percent_of_core)).collect())],
    }
}

fn of_fork(report: &ForkReport) -> Chart {
    const UNIT: &str = "µs";
    let rows = || report.rows.iter().filter(|row| row.unit == UNIT);
    let mut places: Vec<&str> = rows().map(|row| row.measure).collect();
    let mut systems: Vec<&str> = rows().map(|row| row.system.as_str()).collect();
    for names in [&mut places, &mut systems] {
        names.sort_unstable();
        names.dedup();
    }
    let value = |measure: &str, system: &str| {
        let row = rows().find(|row| row.measure == measure && row.system == system)?;
        Some(row.value.median)
    };
    let series = |system: &&str| {
        let values = places.iter().map(|place| value(place, system)).collect();
        ((*system).to_owned(), values)
    };
    let series = systems.iter().map(series).collect();
    Chart {
        title: "Forks, medians of the rounds",
        unit: UNIT,
        places: places.iter().map(ToString::to_string).collect(),
        series,
    }
}

impl Chart {
    fn draw(&self, machine: &Machine) -> anyhow::Result<String> {
        let values = || self.series.iter().flat_map(|(_, values)| values.iter().flatten().copied());
        // There is no place for nothing on such a scale.
        let least = values().filter(|&value| value > 0.0).fold(f64::INFINITY, f64::min);
        let greatest = values().fold(f64::NEG_INFINITY, f64::max);
        if !(least.is_finite() && greatest > 0.0) {
            bail!("there is nothing to draw: no row has a value above zero");
        }
        let height = HEIGHT_PIXELS.max(LINE_PIXELS * (self.series.len() as u32 + 6));
        let mut svg = String::new();
        {
            let area = SVGBackend::with_string(&mut svg, (WIDTH_PIXELS, height)).into_drawing_area();
            self.draw_in(&area, machine, (least * 0.8)..(greatest * 1.3)).context("cannot draw")?;
            area.present().context("cannot draw")?;
        }
        Ok(svg)
    }

    fn draw_in(
        &self,
        area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
        machine: &Machine,
        range: std::ops::Range<f64>,
    ) -> anyhow::Result<()> {
        area.fill(&WHITE)?;
        let (picture, foot) = area.split_vertically(area.dim_in_pixel().1 - 3 * LINE_PIXELS);
        let (plot, legend) = picture.split_horizontally(WIDTH_PIXELS * 6 / 10);
        let last = self.places.len().saturating_sub(1) as u32;
        let mut chart = ChartBuilder::on(&plot)
            .caption(self.title, ("sans-serif", 18))
            .margin(10)
            .x_label_area_size(36)
            .y_label_area_size(70)
            .build_cartesian_2d((0..last).into_segmented(), range.log_scale())?;
        let place = |value: &SegmentValue<u32>| match value {
            SegmentValue::CenterOf(at) => self.places.get(*at as usize).cloned().unwrap_or_default(),
            _ => String::new(),
        };
        chart.configure_mesh().y_desc(self.unit).x_labels(self.places.len()).x_label_formatter(&place).draw()?;
        for (number, (name, values)) in self.series.iter().enumerate() {
            let colour = HSLColor(number as f64 / self.series.len().min(COLOURS) as f64 % 1.0, 0.75, 0.42);
            let points: Vec<_> = (0..)
                .zip(values)
                .filter_map(|(at, value)| {
                    value.filter(|&value| value > 0.0).map(|value| (SegmentValue::CenterOf(at), value))
                })
                .collect();
            chart.draw_series(LineSeries::new(points.iter().cloned(), colour.stroke_width(2)))?;
            chart.draw_series(points.iter().map(|point| Circle::new(point.clone(), 3, colour.filled())))?;
            let line = (LINE_PIXELS * (number as u32 + 3)) as i32;
            legend.draw(&Rectangle::new([(8, line), (22, line + 10)], colour.filled()))?;
            legend.draw(&Text::new(name.clone(), (30, line), ("sans-serif", 12)))?;
        }
        let [load, ..] = machine.load_average;
        let text = format!(
            "{}, {} cores, Linux {}, load average before the run {load}",
            machine.cpu_model, machine.cores, machine.kernel
        );
        for (line, text) in (0..).zip([text, mitigations(machine)]) {
            foot.draw(&Text::new(text, (10, 4 + line * LINE_PIXELS as i32), ("sans-serif", 12)))?;
        }
        Ok(())
    }
}
