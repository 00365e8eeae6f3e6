//! Images: resize, order of channels, layout, normalisation.

use lamppost_models::manifest::{ImageLayout, ImageSize};

/// Where an output row or column comes from: two neighbours and the second one's share.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Tap {
    low: usize,
    high: usize,
    share: f32,
}

/// One output channel: where it comes from and how it is normalised.
#[derive(Clone, Copy, Debug)]
struct Channel {
    from: usize,
    mean: f32,
    std: f32,
}

/// The steps of one image feature, with what does not change from image to image computed once.
#[derive(Clone, Debug)]
pub(crate) struct Resize {
    from: ImageSize,
    columns: Vec<Tap>,
    rows: Vec<Tap>,
    channels: Vec<Channel>,
    layout: ImageLayout,
}

impl Resize {
    #[expect(clippy::cast_possible_truncation, reason = "the tensor is f32")]
    pub(crate) fn new(
        from: ImageSize,
        to: ImageSize,
        channels: &[usize],
        layout: ImageLayout,
        mean: &[f64],
        std: &[f64],
    ) -> Self {
        let normalise = mean
            .iter()
            .zip(std)
            .map(|(mean, std)| (*mean as f32, *std as f32));
        Self {
            from,
            columns: taps(from.width, to.width),
            rows: taps(from.height, to.height),
            channels: channels
                .iter()
                .zip(normalise)
                .map(|(&from, (mean, std))| Channel { from, mean, std })
                .collect(),
            layout,
        }
    }

    /// How many numbers an image has.
    pub(crate) fn input_len(&self) -> usize {
        self.from.width * self.from.height * self.from.channels
    }

    /// Appends the tensor of `pixels`, which has [`Resize::input_len`] numbers: rows of pixels, channels interleaved.
    pub(crate) fn append(&self, pixels: &[f32], out: &mut Vec<f32>) {
        match self.layout {
            ImageLayout::Chw => {
                for channel in &self.channels {
                    for row in &self.rows {
                        out.extend(
                            self.columns
                                .iter()
                                .map(|column| self.at(pixels, row, column, channel)),
                        );
                    }
                }
            }
            ImageLayout::Hwc => {
                for row in &self.rows {
                    for column in &self.columns {
                        out.extend(
                            self.channels
                                .iter()
                                .map(|channel| self.at(pixels, row, column, channel)),
                        );
                    }
                }
            }
        }
    }

    fn at(&self, pixels: &[f32], row: &Tap, column: &Tap, channel: &Channel) -> f32 {
        let pixel = |y: usize, x: usize| {
            pixels[(y * self.from.width + x) * self.from.channels + channel.from]
        };
        let across = |y: usize| mix(pixel(y, column.low), pixel(y, column.high), column.share);
        (mix(across(row.low), across(row.high), row.share) - channel.mean) / channel.std
    }
}

fn mix(low: f32, high: f32, share: f32) -> f32 {
    low + (high - low) * share
}

/// Bilinear with pixel centres at half: output pixel `i` looks at `(i + 0.5) * from / to - 0.5`, held within the image
/// (ONNX operator Resize, mode `linear`, coordinate transformation `half_pixel`, without antialiasing).
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the coordinate is held within an image of at most 4 Mi pixels"
)]
fn taps(from: usize, to: usize) -> Vec<Tap> {
    let last = from.saturating_sub(1);
    (0..to)
        .map(|index| {
            let at = (index as f64 + 0.5) * from as f64 / to as f64 - 0.5;
            let at = at.clamp(0.0, last as f64);
            let low = at.floor() as usize;
            Tap {
                low,
                high: (low + 1).min(last),
                share: (at - at.floor()) as f32,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(width: usize, height: usize, channels: usize) -> ImageSize {
        ImageSize {
            width,
            height,
            channels,
        }
    }

    fn run(resize: &Resize, pixels: &[f32]) -> Vec<f32> {
        let mut out = Vec::new();
        assert_eq!(pixels.len(), resize.input_len());
        resize.append(pixels, &mut out);
        out
    }

    #[test]
    fn doubling_a_row_mixes_neighbours_by_quarters_and_repeats_the_edges() {
        let resize = Resize::new(
            size(2, 1, 1),
            size(4, 1, 1),
            &[0],
            ImageLayout::Chw,
            &[0.0],
            &[1.0],
        );
        assert_eq!(run(&resize, &[0.0, 100.0]), [0.0, 25.0, 75.0, 100.0]);
    }

    #[test]
    fn halving_takes_the_mean_of_four_neighbours() {
        let resize = Resize::new(
            size(4, 2, 1),
            size(2, 1, 1),
            &[0],
            ImageLayout::Chw,
            &[0.0],
            &[1.0],
        );
        #[rustfmt::skip]
        let pixels = [
            0.0, 10.0, 20.0, 30.0,
            40.0, 50.0, 60.0, 70.0,
        ];
        assert_eq!(run(&resize, &pixels), [25.0, 45.0]);
    }

    #[test]
    fn channels_are_reordered_normalised_and_laid_out_in_planes() {
        let resize = Resize::new(
            size(2, 1, 3),
            size(2, 1, 3),
            &[2, 1, 0],
            ImageLayout::Chw,
            &[1.0, 2.0, 3.0],
            &[1.0, 2.0, 4.0],
        );
        let out = run(&resize, &[10.0, 20.0, 30.0, 11.0, 22.0, 33.0]);
        assert_eq!(out, [29.0, 32.0, 9.0, 10.0, 7.0 / 4.0, 8.0 / 4.0]);
    }

    #[test]
    fn channels_stay_interleaved_in_hwc() {
        let resize = Resize::new(
            size(2, 1, 3),
            size(2, 1, 2),
            &[0, 2],
            ImageLayout::Hwc,
            &[0.0, 0.0],
            &[1.0, 1.0],
        );
        assert_eq!(
            run(&resize, &[10.0, 20.0, 30.0, 11.0, 22.0, 33.0]),
            [10.0, 30.0, 11.0, 33.0]
        );
    }

    #[test]
    fn a_single_pixel_fills_any_image() {
        let resize = Resize::new(
            size(1, 1, 1),
            size(3, 2, 1),
            &[0],
            ImageLayout::Hwc,
            &[0.0],
            &[255.0],
        );
        assert_eq!(run(&resize, &[255.0]), [1.0; 6]);
    }
}
