//! Curves in panels beside each other, as SVG.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

pub(super) struct Chart {
    pub(super) title: String,
    pub(super) origin: String,
    pub(super) x: &'static str,
    pub(super) y: &'static str,
    pub(super) is_x_logarithmic: bool,
    pub(super) is_y_logarithmic: bool,
    /// With equal axes.
    pub(super) panels: Vec<Panel>,
}

pub(super) struct Panel {
    pub(super) title: String,
    pub(super) curves: Vec<Curve>,
}

pub(super) struct Curve {
    pub(super) name: String,
    pub(super) points: Vec<Point>,
}

pub(super) struct Point {
    pub(super) x: f64,
    pub(super) y: f64,
    /// Least and most.
    pub(super) range: Option<(f64, f64)>,
}

/// px
const WIDTH: u32 = 960;
const HEIGHT: i32 = 420;
const TITLE_HEIGHT: i32 = 62;
const LEGEND_HEIGHT: i32 = 34;
const INK: RGBColor = RGBColor(0x33, 0x33, 0x33);
const FAINT: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);
/// Okabe and Ito's palette, which colour-blind people can tell apart.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0x66, 0x66, 0x66),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

impl Chart {
    pub(super) fn svg(&self) -> Result<String> {
        let mut svg = String::new();
        {
            let area =
                SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT as u32)).into_drawing_area();
            self.draw(&area)
                .map_err(|error| anyhow!("{}: {error}", self.title))?;
        }
        Ok(svg)
    }

    fn draw(&self, area: &Area<'_>) -> Result<()> {
        area.fill(&WHITE)?;
        let (head, rest) = area.split_vertically(TITLE_HEIGHT);
        let (body, legend) = rest.split_vertically(HEIGHT - TITLE_HEIGHT - LEGEND_HEIGHT);
        head.draw_text(&self.title, &text(20), (14, 10))?;
        head.draw_text(&self.origin, &text(13), (14, 38))?;
        for (ix, (panel, area)) in self
            .panels
            .iter()
            .zip(body.split_evenly((1, self.panels.len())))
            .enumerate()
        {
            match (self.is_x_logarithmic, self.is_y_logarithmic) {
                (false, false) => self.panel(panel, &area, ix, self.range_x(), self.range_y())?,
                (false, true) => {
                    self.panel(panel, &area, ix, self.range_x(), self.range_y().log_scale())?
                }
                (true, false) => {
                    self.panel(panel, &area, ix, self.range_x().log_scale(), self.range_y())?
                }
                (true, true) => {
                    self.panel(
                        panel,
                        &area,
                        ix,
                        self.range_x().log_scale(),
                        self.range_y().log_scale(),
                    )?;
                }
            }
        }
        self.legend(&legend)?;
        area.present()?;
        Ok(())
    }

    fn points(&self) -> impl Iterator<Item = &Point> {
        self.panels
            .iter()
            .flat_map(|panel| &panel.curves)
            .flat_map(|curve| &curve.points)
    }

    fn range_x(&self) -> std::ops::Range<f64> {
        let (least, most) = extent(self.points().map(|point| point.x));
        if self.is_x_logarithmic {
            least..most * 1.2
        } else {
            let margin = 0.08 * (most - least).max(1.0);
            least - margin..most + margin
        }
    }

    fn range_y(&self) -> std::ops::Range<f64> {
        let ranges = self.points().flat_map(|point| {
            let (least, most) = point.range.unwrap_or((point.y, point.y));
            [least, most]
        });
        let (least, most) = extent(ranges);
        if self.is_y_logarithmic {
            least / 1.3..most * 1.3
        } else {
            0.0..most * 1.06
        }
    }

    fn panel<X, Y>(&self, panel: &Panel, area: &Area<'_>, ix: usize, x: X, y: Y) -> Result<()>
    where
        X: AsRangedCoord<Value = f64>,
        X::CoordDescType: ValueFormatter<f64> + Ranged<ValueType = f64>,
        Y: AsRangedCoord<Value = f64>,
        Y::CoordDescType: ValueFormatter<f64> + Ranged<ValueType = f64>,
    {
        let mut chart = ChartBuilder::on(area)
            .caption(&panel.title, text(15))
            .margin_left(8)
            .margin_right(14)
            .x_label_area_size(40)
            .y_label_area_size(if ix == 0 { 62 } else { 46 })
            .build_cartesian_2d(x, y)?;
        let number = |value: &f64| short(*value);
        let mut mesh = chart.configure_mesh();
        mesh.x_desc(self.x)
            .x_labels(6)
            .y_labels(7)
            .x_label_formatter(&number)
            .y_label_formatter(&number)
            .light_line_style(WHITE)
            .bold_line_style(FAINT)
            .axis_style(INK)
            .label_style(text(12))
            .axis_desc_style(text(13));
        if ix == 0 {
            mesh.y_desc(self.y);
        }
        mesh.draw()?;
        for (curve, colour) in panel.curves.iter().zip(COLOURS.iter().cycle()) {
            let line = curve.points.iter().map(|point| (point.x, point.y));
            chart.draw_series(LineSeries::new(line, colour.stroke_width(2)))?;
            for point in &curve.points {
                if let Some((least, most)) = point.range {
                    let bar = vec![(point.x, least), (point.x, most)];
                    chart.draw_series([PathElement::new(bar, colour.mix(0.45).stroke_width(1))])?;
                    chart.draw_series([Circle::new((point.x, point.y), 3, colour.filled())])?;
                }
            }
        }
        Ok(())
    }

    fn legend(&self, area: &Area<'_>) -> Result<()> {
        let Some(panel) = self.panels.first() else {
            return Ok(());
        };
        for ((ix, curve), colour) in (0..).zip(&panel.curves).zip(COLOURS.iter().cycle()) {
            let (x, y) = (80 + 150 * ix, 16);
            area.draw(&PathElement::new(
                vec![(x, y), (x + 26, y)],
                colour.stroke_width(3),
            ))?;
            let left = text(14).pos(Pos::new(HPos::Left, VPos::Center));
            area.draw_text(&curve.name, &left, (x + 34, y))?;
        }
        Ok(())
    }
}

fn text(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK)
}

/// Of no values that of nothing and one.
fn extent(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (least, most) = values.fold(
        (f64::INFINITY, f64::NEG_INFINITY),
        |(least, most), value| (least.min(value), most.max(value)),
    );
    if least < most {
        (least, most)
    } else {
        (0.1, 1.0)
    }
}

fn short(value: f64) -> String {
    if value >= 1_000.0 {
        format!("{:.0}k", value / 1_000.0)
    } else if value < 1.0 && value > 0.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}
