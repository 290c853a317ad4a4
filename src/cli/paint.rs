//! Colours. The streams of `anstream` take them out again where nobody wants them: not a terminal, NO_COLOR.

use std::fmt::{self, Display};

use anstyle::{AnsiColor, Style};

/// Prints a line. Nobody is left to tell when stdout is gone, as with `| head`.
macro_rules! say {
    () => { $crate::cli::paint::say!("") };
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _unheard = writeln!(anstream::stdout(), $($words)*);
    }};
}
pub(crate) use say;

/// Something in a colour.
pub(crate) struct Painted<T>(Style, T);

impl<T: Display> Display for Painted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The width counts for the text alone, so that columns stand.
        write!(f, "{}", self.0)?;
        self.1.fmt(f)?;
        write!(f, "{:#}", self.0)
    }
}

/// As it should be.
pub(crate) fn good<T: Display>(what: T) -> Painted<T> {
    Painted(AnsiColor::Green.on_default(), what)
}

/// On its way.
pub(crate) fn waiting<T: Display>(what: T) -> Painted<T> {
    Painted(AnsiColor::Yellow.on_default(), what)
}

/// Wrong.
pub(crate) fn bad<T: Display>(what: T) -> Painted<T> {
    Painted(AnsiColor::Red.on_default().bold(), what)
}

/// A name, a heading.
pub(crate) fn strong<T: Display>(what: T) -> Painted<T> {
    Painted(Style::new().bold(), what)
}

/// Of less weight.
pub(crate) fn faint<T: Display>(what: T) -> Painted<T> {
    Painted(Style::new().dimmed(), what)
}

/// Text from elsewhere, without what could move the cursor or change the colours of a terminal.
pub(crate) fn plain(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' => ' ',
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// A number with its thousands apart, as in 1,234,567.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (nth, digit) in digits.chars().enumerate() {
        if nth > 0 && (digits.len() - nth).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number of bytes, as in "1,234 bytes".
pub(crate) fn bytes(number: u64) -> String {
    match number {
        1 => "1 byte".to_owned(),
        number => format!("{} bytes", grouped(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_stand_apart() {
        let cases = [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ];
        for (number, text) in cases {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn what_comes_from_elsewhere_cannot_drive_a_terminal() {
        assert_eq!(
            plain("a\x1b[31mb\r\nc\u{9b}"),
            "a\u{fffd}[31mb\u{fffd} c\u{fffd}"
        );
    }
}
