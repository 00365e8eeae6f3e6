//! Architectures as they are typed: `mlp:64,32`, `cnn1d:16,32:5`, `cnn2d:8,16:3:32`, `gru:32`.

use lamppost_forge::Architecture;

/// What may be typed.
pub(crate) const FORMS: &str = "mlp:WIDTHS, cnn1d:FILTERS[:KERNEL], cnn2d:FILTERS[:KERNEL[:WIDTHS]] or gru:WIDTH, such as mlp:64,32";
/// Steps that a filter of a series looks at, unless told otherwise.
const KERNEL_1D: usize = 5;
/// Sides of a filter of an image, unless told otherwise.
const KERNEL_2D: usize = 3;

/// Reads an architecture.
///
/// # Errors
/// What may be typed.
pub(crate) fn parse(text: &str) -> Result<Architecture, String> {
    read(text).ok_or_else(|| format!("{text:?} is no architecture: write {FORMS}"))
}

fn read(text: &str) -> Option<Architecture> {
    let mut parts = text.split(':');
    let (kind, sizes) = (parts.next()?, parts.next());
    let kernel = parts.next().map(str::parse::<usize>);
    let hidden = parts.next();
    if parts.next().is_some() {
        return None;
    }
    let kernel = |default| kernel.clone().map_or(Some(default), Result::ok);
    let none_behind = hidden.is_none();
    match kind {
        "mlp" if none_behind && kernel(0)? == 0 => Some(Architecture::Mlp {
            hidden: numbers(sizes?)?,
        }),
        "cnn1d" if none_behind => Some(Architecture::Cnn1d {
            filters: numbers(sizes?)?,
            kernel: kernel(KERNEL_1D)?,
        }),
        "cnn2d" => Some(Architecture::Cnn2d {
            filters: numbers(sizes?)?,
            kernel: kernel(KERNEL_2D)?,
            hidden: hidden.map_or(Some(Vec::new()), numbers)?,
        }),
        "gru" if none_behind && kernel(0)? == 0 => Some(Architecture::Gru {
            hidden: sizes?.parse().ok()?,
        }),
        _ => None,
    }
}

fn numbers(text: &str) -> Option<Vec<usize>> {
    text.split(',').map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_read_and_nothing_else() {
        let mlp = |hidden: &[usize]| Architecture::Mlp {
            hidden: hidden.to_vec(),
        };
        assert_eq!(parse("mlp:64,32"), Ok(mlp(&[64, 32])));
        assert_eq!(
            parse("cnn1d:16"),
            Ok(Architecture::Cnn1d {
                filters: vec![16],
                kernel: 5
            })
        );
        assert_eq!(
            parse("cnn2d:8,16:5:32,8"),
            Ok(Architecture::Cnn2d {
                filters: vec![8, 16],
                kernel: 5,
                hidden: vec![32, 8]
            })
        );
        assert_eq!(parse("gru:32"), Ok(Architecture::Gru { hidden: 32 }));
        for wrong in [
            "",
            "mlp",
            "mlp:",
            "mlp:a",
            "mlp:8:1",
            "mlp:8:0:8",
            "cnn1d:8:3:4",
            "cnn2d:8:x",
            "gru:8,8",
            "gru:8:1",
            "lstm:8",
            "cnn2d:8:3:8:8",
        ] {
            let error = parse(wrong).unwrap_err();
            assert!(error.contains("gru:WIDTH"), "{wrong}: {error}");
        }
    }
}
