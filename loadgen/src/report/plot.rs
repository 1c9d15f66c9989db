//! Line plots as inline SVG: axes with round numbers, a legend, and values on hover. Colours come
//! from the page's style sheet, so that they follow its light and dark form.

use std::fmt::Write as _;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 78.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 42.0;
/// Width of a line's sample in the legend, with the space around it.
const SWATCH: f64 = 40.0;
/// Width of a character there, at most about.
const CHARACTER: f64 = 6.6;
/// Points beyond which there are no values on hover: they would lie on each other.
const HOVER_POINTS: usize = 250;

/// How values become places on an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scale {
    /// From 0 to this.
    Linear(f64),
    /// From this to that, both above 0.
    Log(f64, f64),
    /// Percent: so many factors of ten in the share beyond, 0 %, 90 %, 99 % and so on.
    Nines(f64),
}

impl Scale {
    /// From 0, or as a logarithm where the values lie far apart, up to a round number.
    pub(super) fn fitting(values: impl Iterator<Item = f64>) -> Self {
        let (mut least, mut most) = (f64::INFINITY, 0.0_f64);
        for value in values.filter(|value| *value > 0.0) {
            least = least.min(value);
            most = most.max(value);
        }
        if most <= 0.0 {
            return Self::Linear(1.0);
        }
        if most / least > 100.0 {
            let low = 10_f64.powf(least.log10().floor());
            let high = 10_f64.powf(most.log10().ceil());
            return Self::Log(low, high);
        }
        let step = round_step(most);
        Self::Linear((most / step).ceil() * step)
    }

    /// Where a value lies, from 0 to 1.
    fn place(self, value: f64) -> f64 {
        let at = match self {
            Self::Linear(most) => value / most,
            Self::Log(low, high) => {
                (value.max(low).log10() - low.log10()) / (high.log10() - low.log10())
            }
            Self::Nines(count) => -(1.0 - value / 100.0).max(1e-12).log10() / count,
        };
        at.clamp(0.0, 1.0)
    }

    fn ticks(self) -> Vec<f64> {
        match self {
            Self::Linear(most) => {
                let step = round_step(most);
                steps(0.0, most / step).map(|n| n * step).collect()
            }
            Self::Log(low, high) => steps(low.log10().round(), high.log10().round())
                .map(|n| 10_f64.powf(n))
                .collect(),
            Self::Nines(count) => steps(0.0, count)
                .map(|n| 100.0 * (1.0 - 10_f64.powf(-n)))
                .collect(),
        }
    }
}

/// Whole steps from one number to another, both included.
fn steps(from: f64, to: f64) -> impl Iterator<Item = f64> {
    std::iter::successors(Some(from), |at| Some(at + 1.0)).take_while(move |at| *at <= to + 1e-9)
}

/// A step of 1, 2 or 5 times a power of ten that gives four to eight ticks.
fn round_step(most: f64) -> f64 {
    let rough = most / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    let factor = match rough / power {
        ..1.5 => 1.0,
        ..3.5 => 2.0,
        ..7.5 => 5.0,
        _ => 10.0,
    };
    factor * power
}

/// One line.
#[derive(Debug)]
pub(super) struct Line {
    /// In the legend.
    pub(super) name: &'static str,
    /// Class of its colour: `a`, `b`, `c` or `bad`.
    pub(super) class: &'static str,
    /// Rising in x.
    pub(super) points: Vec<(f64, f64)>,
}

/// A plot.
pub(super) struct Plot {
    pub(super) title: &'static str,
    pub(super) x: Scale,
    pub(super) y: Scale,
    /// What the x axis counts.
    pub(super) x_name: &'static str,
    /// Values of an axis for a reader.
    pub(super) x_text: fn(f64) -> String,
    pub(super) y_text: fn(f64) -> String,
    pub(super) lines: Vec<Line>,
}

impl Plot {
    /// The `svg` element.
    pub(super) fn svg(&self) -> String {
        let mut out = String::new();
        self.write(&mut out).expect("a string takes everything");
        out
    }

    fn x_at(&self, value: f64) -> f64 {
        LEFT + self.x.place(value) * (WIDTH - LEFT - RIGHT)
    }

    fn y_at(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.place(value) * (HEIGHT - TOP - BOTTOM)
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let title = self.title;
        writeln!(
            out,
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">"
        )?;
        writeln!(
            out,
            "<text class=\"title\" x=\"{LEFT}\" y=\"18\">{title}</text>"
        )?;
        self.axes(out)?;
        self.legend(out)?;
        for line in &self.lines {
            let class = line.class;
            write!(out, "<polyline class=\"line {class}\" points=\"")?;
            for &(x, y) in &line.points {
                write!(out, "{:.1},{:.1} ", self.x_at(x), self.y_at(y))?;
            }
            writeln!(out, "\"/>")?;
        }
        for line in &self.lines {
            if line.points.len() > HOVER_POINTS {
                continue;
            }
            for &(x, y) in &line.points {
                writeln!(
                    out,
                    "<circle class=\"dot {}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"5\"><title>{} {}: {}</title></circle>",
                    line.class,
                    self.x_at(x),
                    self.y_at(y),
                    line.name,
                    (self.x_text)(x),
                    (self.y_text)(y),
                )?;
            }
        }
        writeln!(out, "</svg>")
    }

    fn axes(&self, out: &mut String) -> std::fmt::Result {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for tick in self.y.ticks() {
            let y = self.y_at(tick);
            writeln!(
                out,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 8.0,
                y + 4.0,
                (self.y_text)(tick),
            )?;
        }
        for tick in self.x.ticks() {
            let x = self.x_at(tick);
            writeln!(
                out,
                "<line class=\"axis\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{bottom}\" y2=\"{:.1}\"/>\
                 <text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                bottom + 4.0,
                bottom + 17.0,
                (self.x_text)(tick),
            )?;
        }
        writeln!(
            out,
            "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{bottom}\" y2=\"{bottom}\"/>\
             <text class=\"tick\" x=\"{right}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            HEIGHT - 6.0,
            self.x_name,
        )
    }

    /// At the right, at the height of the title.
    fn legend(&self, out: &mut String) -> std::fmt::Result {
        if self.lines.len() < 2 {
            return Ok(());
        }
        #[allow(clippy::cast_precision_loss)] // Short names.
        let width = |line: &Line| SWATCH + CHARACTER * line.name.len() as f64;
        let mut x = WIDTH - RIGHT - self.lines.iter().map(width).sum::<f64>();
        for line in &self.lines {
            writeln!(
                out,
                "<line class=\"line {}\" x1=\"{x:.1}\" x2=\"{:.1}\" y1=\"14\" y2=\"14\"/>\
                 <text class=\"tick\" x=\"{:.1}\" y=\"18\">{}</text>",
                line.class,
                x + 18.0,
                x + 24.0,
                line.name,
            )?;
            x += width(line);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(scale: Scale, values: &[f64]) -> Vec<i64> {
        values
            .iter()
            .map(|value| (scale.place(*value) * 1000.0).round() as i64)
            .collect()
    }

    #[test]
    fn axes_end_at_round_numbers() {
        let scale = Scale::fitting([3.0, 87.0].into_iter());
        assert_eq!(scale, Scale::Linear(100.0));
        assert_eq!(scale.ticks(), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(Scale::fitting([0.0].into_iter()), Scale::Linear(1.0));
        let ticks = Scale::fitting([1234.0].into_iter()).ticks();
        assert!((4..=8).contains(&ticks.len()), "{ticks:?}");
    }

    #[test]
    fn values_far_apart_get_a_logarithm() {
        let scale = Scale::fitting([20.0, 3000.0].into_iter());
        assert_eq!(scale, Scale::Log(10.0, 10_000.0));
        assert_eq!(
            places(scale, &[1.0, 10.0, 100.0, 10_000.0]),
            [0, 0, 333, 1000]
        );
        assert_eq!(scale.ticks().len(), 4);
    }

    #[test]
    fn each_nine_is_a_step() {
        let scale = Scale::Nines(4.0);
        assert_eq!(
            places(scale, &[0.0, 90.0, 99.0, 99.99, 100.0]),
            [0, 250, 500, 1000, 1000]
        );
        assert_eq!(scale.ticks().len(), 5);
    }

    #[test]
    fn a_plot_has_its_lines_and_a_legend() {
        let line = |name, class| Line {
            name,
            class,
            points: vec![(0.0, 1.0), (1.0, 2.0)],
        };
        let plot = Plot {
            title: "t",
            x: Scale::Linear(1.0),
            y: Scale::Linear(2.0),
            x_name: "s",
            x_text: |x| format!("{x}"),
            y_text: |y| format!("{y}"),
            lines: vec![line("one", "a"), line("two", "b")],
        };
        let svg = plot.svg();
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert_eq!(svg.matches("<circle").count(), 4);
        assert!(svg.contains(">one</text>") && svg.ends_with("</svg>\n"));
    }
}
