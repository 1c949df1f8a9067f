//! Images side by side, as a PNG file.

use ::png::{BitDepth, ColorType, Encoder};
use downhill::Shape;
use std::{error::Error, path::Path};

/// Writes images as a grid of `columns`, a pixel of each as a square of `scale`, with lines of one pixel between them.
///
/// `values` are images of shape `[1, height, width]` or, with colours, `[3, height, width]`, one after the other; what is outside of
/// 0 to 1 is cut off.
pub fn grid(path: &Path, values: &[f32], image: Shape, columns: usize, scale: usize) -> Result<(), Box<dyn Error>> {
    let &[channels @ (1 | 3), height, width] = image.dims() else { return Err(format!("images of shape {image} cannot be drawn").into()) };
    let images: Vec<&[f32]> = values.chunks_exact(channels * height * width).collect();
    let rows = images.len().div_ceil(columns);
    let side = |pixels: usize, images: usize| images * (pixels * scale + 1) + 1;
    let (across, down) = (side(width, columns), side(height, rows));
    let mut bytes = vec![LINE; across * down * channels];
    for (i, image) in images.iter().enumerate() {
        let (left, top) = (side(width, i % columns), side(height, i / columns));
        for y in 0..height * scale {
            for x in 0..width * scale {
                for c in 0..channels {
                    let value = image[(c * height + y / scale) * width + x / scale];
                    bytes[((top + y) * across + left + x) * channels + c] = (value.clamp(0.0, 1.0) * 255.0).round() as u8;
                }
            }
        }
    }
    let named = |e: &dyn Error| format!("{}: {e}", path.display());
    let mut file = Vec::new();
    let mut encoder = Encoder::new(&mut file, across as u32, down as u32);
    encoder.set_color(if channels == 1 { ColorType::Grayscale } else { ColorType::Rgb });
    encoder.set_depth(BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(|e| named(&e))?;
    writer.write_image_data(&bytes).map_err(|e| named(&e))?;
    writer.finish().map_err(|e| named(&e))?;
    Ok(downhill::file::replace(path, &file)?)
}

/// How bright the lines between images are.
const LINE: u8 = 96;
