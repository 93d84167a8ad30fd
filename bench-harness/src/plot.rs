//! Bars and lines as inline SVG that follows the colours of the page around it. It knows numbers, labels and colours, not
//! what they mean.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

const WIDTH: u32 = 960;
/// Stands for the colour of the page's text until the SVG is finished.
const INK: RGBColor = RGBColor(1, 1, 1);
const INK_AS_TEXT: &str = "#010101";
const FONT: &str = "inherit";
const TEXT: f64 = 17.0;

/// Readable on white and on black alike.
const PALETTE: [RGBColor; 8] = [
    RGBColor(0x3b, 0x82, 0xd6),
    RGBColor(0x2a, 0x9d, 0x6f),
    RGBColor(0xa8, 0x63, 0xc9),
    RGBColor(0xd1, 0x4f, 0x8a),
    RGBColor(0x8d, 0x7a, 0x2e),
    RGBColor(0x2b, 0x9a, 0xae),
    RGBColor(0xb5, 0x5a, 0x3c),
    RGBColor(0x6b, 0x74, 0xc9),
];
const OURS: [RGBColor; 4] =
    [RGBColor(0xe8, 0x7a, 0x1d), RGBColor(0xc9, 0x56, 0x0e), RGBColor(0xf2, 0xa1, 0x4a), RGBColor(0x9e, 0x4a, 0x12)];
const REFERENCES: [RGBColor; 2] = [RGBColor(0x8a, 0x94, 0x9e), RGBColor(0xa8, 0x9c, 0x84)];

/// A colour of a plot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Colour(u8, u8, u8);

impl Colour {
    /// As CSS writes it.
    pub fn css(&self) -> String {
        format!("#{:02x}{:02x}{:02x}", self.0, self.1, self.2)
    }

    fn rgb(self) -> RGBColor {
        RGBColor(self.0, self.1, self.2)
    }
}

impl From<RGBColor> for Colour {
    fn from(RGBColor(r, g, b): RGBColor) -> Colour {
        Colour(r, g, b)
    }
}

/// The same colour for the same name all over a page: Hawser's own, grey for what is only a reference, one of a palette
/// for all others.
pub fn colour(name: &str, all: &[String]) -> Colour {
    let reference = |name: &str| ["none", "plain", "budget"].iter().any(|known| name.starts_with(known));
    let ours = |name: &str| name.starts_with("hawser") || name == "measured" || name.is_empty();
    let nth = |kind: &dyn Fn(&str) -> bool| all.iter().filter(|one| kind(one)).position(|one| one == name).unwrap_or(0);
    if ours(name) {
        OURS[nth(&ours) % OURS.len()].into()
    } else if reference(name) {
        REFERENCES[nth(&reference) % REFERENCES.len()].into()
    } else {
        PALETTE[nth(&|one| !ours(one) && !reference(one)) % PALETTE.len()].into()
    }
}

/// One bar. Bars with equal `group` stand together under its name.
#[derive(Clone, Debug)]
pub struct Bar {
    /// Heading above the bars of one group; may be empty.
    pub group: String,
    /// What the bar is.
    pub label: String,
    /// Its length.
    pub median: f64,
    /// From where to where the whisker goes.
    pub spread: (f64, f64),
    /// Its length as text.
    pub text: String,
    /// Its colour.
    pub colour: Colour,
}

/// One line.
#[derive(Clone, Debug)]
pub struct Line {
    /// What the line is.
    pub label: String,
    /// Its colour.
    pub colour: Colour,
    /// Drawn thinner, as a variant of another of the same colour.
    pub dashed: bool,
    /// Name of the position, position, value; in order.
    pub points: Vec<(String, f64, f64)>,
}

/// Horizontal bars with whiskers. None if there is nothing to draw.
pub fn bars(bars: &[Bar], unit: &str) -> Option<String> {
    let most = bars.iter().map(|bar| bar.spread.1.max(bar.median)).fold(0.0, f64::max);
    if bars.is_empty() || most <= 0.0 || !most.is_finite() {
        return None;
    }
    let mut rows: Vec<Row> = Vec::new();
    for bar in bars {
        let known = rows.iter().rev().find_map(|row| if let Row::Head(head) = row { Some(*head) } else { None });
        if !bar.group.is_empty() && known != Some(bar.group.as_str()) {
            rows.push(Row::Head(&bar.group));
        }
        rows.push(Row::Bar(bar));
    }
    let height = rows.iter().map(Row::height).sum::<i32>() + AXIS;
    svg(height as u32, |area| {
        let longest = bars.iter().map(|bar| bar.label.chars().count()).max().unwrap_or(0);
        let left = (longest as i32 * 8 + 14).clamp(90, 420);
        let right = WIDTH as i32 - 86;
        let x = |value: f64| left + (value / most * f64::from(right - left)).round() as i32;
        let bottom = height - AXIS;
        for tick in ticks(most) {
            area.draw(&PathElement::new([(x(tick), 0), (x(tick), bottom)], INK.mix(0.13)))?;
            area.draw(&Text::new(trim(tick), (x(tick), bottom + 8), text(TEXT - 2.0, 0.65, HPos::Center)))?;
        }
        area.draw(&Text::new(unit.to_owned(), (WIDTH as i32 - 2, bottom + 8), text(TEXT - 2.0, 0.65, HPos::Right)))?;
        let mut y = 0;
        for row in &rows {
            let height = row.height();
            match row {
                Row::Head(head) => {
                    area.draw(&Text::new((*head).to_owned(), (0, y + height - 22), text(TEXT, 0.9, HPos::Left)))?;
                }
                Row::Bar(bar) => {
                    let (top, end, middle) = (y + 3, y + height - 3, y + height / 2);
                    let name = text(TEXT - 1.5, 0.85, HPos::Right);
                    area.draw(&Text::new(bar.label.clone(), (left - 8, middle - 8), name))?;
                    area.draw(&Rectangle::new(
                        [(left, top), (x(bar.median).max(left + 1), end)],
                        bar.colour.rgb().filled(),
                    ))?;
                    let (least, greatest) = (x(bar.spread.0), x(bar.spread.1));
                    if greatest > least {
                        for path in [
                            [(least, middle), (greatest, middle)],
                            [(least, middle - 4), (least, middle + 4)],
                            [(greatest, middle - 4), (greatest, middle + 4)],
                        ] {
                            area.draw(&PathElement::new(path, INK.mix(0.75)))?;
                        }
                    }
                    let at = x(bar.median).max(greatest) + 7;
                    area.draw(&Text::new(bar.text.clone(), (at, middle - 8), text(TEXT - 1.5, 0.95, HPos::Left)))?;
                }
            }
            y += height;
        }
        Ok(())
    })
}

/// Bytes of height below the bars.
const AXIS: i32 = 30;

enum Row<'a> {
    Head(&'a str),
    Bar(&'a Bar),
}

impl Row<'_> {
    fn height(&self) -> i32 {
        match self {
            Row::Head(_) => 34,
            Row::Bar(_) => 23,
        }
    }
}

/// Lines over positions, evenly spaced, of which the named ones are marked; the value axis is logarithmic if so wished. None if
/// there is no line.
pub fn lines(lines: &[Line], x_name: &str, y_name: &str, logarithmic: bool) -> Option<String> {
    let mut stops: Vec<(f64, String)> = Vec::new();
    for (name, x, _) in lines.iter().flat_map(|line| &line.points) {
        if !stops.iter().any(|(known, _)| known == x) {
            stops.push((*x, name.clone()));
        }
    }
    stops.sort_by(|a, b| a.0.total_cmp(&b.0));
    let values =
        || lines.iter().flat_map(|line| line.points.iter().map(|point| point.2)).filter(|value| value.is_finite());
    let (least, most) = (values().fold(f64::MAX, f64::min), values().fold(0.0, f64::max));
    if stops.len() < 2 || most <= 0.0 {
        return None;
    }
    const HEIGHT: i32 = 330;
    svg(HEIGHT as u32, |area| {
        let (left, right, top, bottom) = (64, WIDTH as i32 - 24, 14, HEIGHT - 46);
        let (low, high) = if logarithmic { (least.max(0.1) * 0.8, most * 1.15) } else { (0.0, most * 1.06) };
        let y = |value: f64| {
            let share = match logarithmic {
                true => (value.max(low) / low).log10() / (high / low).log10(),
                false => value / high,
            };
            bottom - (share * f64::from(bottom - top)).round() as i32
        };
        let x = |value: f64| {
            let nth = stops.iter().position(|(known, _)| *known == value).unwrap_or(0);
            left + 20 + nth as i32 * (right - left - 40) / (stops.len() as i32 - 1)
        };
        let marks = if logarithmic { decades(low, high) } else { ticks(high) };
        for mark in marks {
            area.draw(&PathElement::new([(left, y(mark)), (right, y(mark))], INK.mix(0.13)))?;
            area.draw(&Text::new(trim(mark), (left - 8, y(mark) - 8), text(TEXT - 2.0, 0.65, HPos::Right)))?;
        }
        for (stop, name) in stops.iter().filter(|(_, name)| !name.is_empty()) {
            area.draw(&PathElement::new([(x(*stop), top), (x(*stop), bottom)], INK.mix(0.07)))?;
            area.draw(&Text::new(name.clone(), (x(*stop), bottom + 7), text(TEXT - 2.0, 0.65, HPos::Center)))?;
        }
        area.draw(&Text::new(x_name.to_owned(), (right, bottom + 26), text(TEXT - 2.0, 0.65, HPos::Right)))?;
        area.draw(&Text::new(y_name.to_owned(), (left - 8, bottom + 7), text(TEXT - 2.0, 0.65, HPos::Right)))?;
        for line in lines {
            let points: Vec<(i32, i32)> = line.points.iter().map(|(_, at, value)| (x(*at), y(*value))).collect();
            let style = line.colour.rgb().stroke_width(if line.dashed { 1 } else { 3 });
            area.draw(&PathElement::new(points.clone(), style))?;
            // Many points, not all of them named, are a curve.
            for point in points.into_iter().filter(|_| stops.iter().all(|(_, name)| !name.is_empty())) {
                area.draw(&Circle::new(point, if line.dashed { 3 } else { 4 }, line.colour.rgb().filled()))?;
            }
        }
        Ok(())
    })
}

/// An SVG of [`lines`] that says below itself which line is which, for where no page does.
pub fn with_legend(svg: &str, lines: &[Line]) -> String {
    const ROW: u32 = 24;
    let from = svg.find("viewBox=\"0 0 ").map_or(0, |at| at + 13);
    let to = svg[from..].find('"').map_or(from, |at| from + at);
    let Some(height) = svg[from..to].split(' ').next_back().and_then(|h| h.parse::<u32>().ok()) else {
        return svg.to_owned();
    };
    let mut rows = String::new();
    for (line, y) in lines.iter().zip((height..).step_by(ROW as usize)) {
        let label = line.label.replace('&', "&amp;").replace('<', "&lt;");
        let width = if line.dashed { 1 } else { 3 };
        rows += &format!(
            "<line x1=\"64\" x2=\"104\" y1=\"{0}\" y2=\"{0}\" stroke=\"{1}\" stroke-width=\"{width}\"/>",
            y + 10,
            line.colour.css()
        );
        rows += &format!("<text x=\"114\" y=\"{}\" font-size=\"15\" fill=\"currentColor\">{label}</text>\n", y + 15);
    }
    let whole = format!("{WIDTH} {}", height + ROW * lines.len() as u32);
    format!("{}{whole}{}", &svg[..from], &svg[to..]).replace("</svg>", &format!("{rows}</svg>"))
}

fn text(size: f64, opacity: f64, h_pos: HPos) -> TextStyle<'static> {
    let ink = INK.mix(opacity).to_backend_color();
    TextStyle { font: (FONT, size).into_font(), color: ink, pos: Pos::new(h_pos, VPos::Top) }
}

/// Draws and makes the result part of a page: as wide as there is room, in the page's own ink and font.
fn svg(
    height: u32,
    draw: impl FnOnce(&DrawingArea<SVGBackend<'_>, plotters::coord::Shift>) -> DrawnOn,
) -> Option<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        draw(&area).ok()?;
        area.present().ok()?;
    }
    let sized = format!("width=\"{WIDTH}\" height=\"{height}\" ");
    Some(svg.replace(&sized, "role=\"img\" ").replace(INK_AS_TEXT, "currentColor"))
}

type DrawnOn = std::result::Result<(), DrawingAreaErrorKind<<SVGBackend<'static> as DrawingBackend>::ErrorType>>;

/// Round numbers from zero up to `most`, four to nine of them.
fn ticks(most: f64) -> Vec<f64> {
    let power = 10f64.powf(most.log10().floor());
    let step =
        [0.1, 0.2, 0.5, 1.0, 2.0].map(|step| step * power).into_iter().find(|step| most / step <= 8.5).unwrap_or(power);
    (0..).map(|n| f64::from(n) * step).take_while(|tick| *tick <= most * 1.000_001).collect()
}

/// Powers of ten with twice and five times each, from `low` to `high`.
fn decades(low: f64, high: f64) -> Vec<f64> {
    let all = (-3..9).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(power)));
    all.filter(|mark| (low * 0.999..=high).contains(mark)).collect()
}

/// A tick without needless digits.
fn trim(value: f64) -> String {
    let text = format!("{value:.3}");
    let short = text.trim_end_matches('0').trim_end_matches('.');
    if value >= 1e6 {
        format!("{}M", trim(value / 1e6))
    } else if value >= 1e4 {
        format!("{}k", trim(value / 1e3))
    } else {
        short.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_few_and_reach_no_further_than_the_most() {
        assert_eq!(ticks(18.2), [0.0, 5.0, 10.0, 15.0]);
        for most in [0.03, 0.7, 1.0, 9.99, 123.0, 4e6] {
            let ticks = ticks(most);
            assert!((4..=10).contains(&ticks.len()) && ticks[ticks.len() - 1] <= most * 1.01, "{most}: {ticks:?}");
        }
    }

    #[test]
    fn numbers_on_axes_have_no_needless_digits() {
        assert_eq!([0.0, 0.5, 12.0, 20_000.0, 1.5e6].map(trim), ["0", "0.5", "12", "20k", "1.5M"]);
    }

    #[test]
    fn a_plot_takes_the_ink_of_its_page_and_nothing_from_elsewhere() {
        let bar = |label: &str| Bar {
            group: "TCP 1".into(),
            label: label.into(),
            median: 2.0,
            spread: (1.5, 2.5),
            text: "2".into(),
            colour: colour(label, &[]),
        };
        let svg = bars(&[bar("hawser"), bar("a < b")], "Gbit/s").unwrap();
        assert!(svg.contains("currentColor") && !svg.contains(INK_AS_TEXT));
        assert!(svg.contains("a &lt; b") && !svg.contains("<script") && !svg.contains("href"));
        assert!(bars(&[], "x").is_none() && lines(&[], "x", "y", true).is_none());
    }
}
