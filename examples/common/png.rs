//! Writes a grid of images to a PNG file.

use downhill::Shape;
use flate2::{Compression, Crc, write::ZlibEncoder};
use std::{error::Error, io::Write, path::Path};

/// Writes images as a grid with `columns` columns. Each pixel becomes a square of `scale` pixels. Lines of one pixel separate the images.
///
/// `values` has images of shape `[1, height, width]` or, with colours, `[3, height, width]`, one after the other. Values are clamped to 0..=1.
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
    Ok(downhill::file::replace(path, &encode(&bytes, across, down, channels)?)?)
}

/// Returns the bytes of a PNG file, which are a signature and three chunks.
fn encode(pixels: &[u8], across: usize, down: usize, channels: usize) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |name: &[u8; 4], data: &[u8]| -> Result<(), Box<dyn Error>> {
        let content = [name, data].concat();
        let mut sum = Crc::new();
        sum.update(&content);
        file.extend(u32::try_from(data.len())?.to_be_bytes());
        file.extend(content);
        file.extend(sum.sum().to_be_bytes());
        Ok(())
    };
    // Eight bits per channel, grey or colours, the only kinds of compression and filtering, and no interlacing.
    let mut header = [u32::try_from(across)?.to_be_bytes(), u32::try_from(down)?.to_be_bytes()].concat();
    header.extend([8, if channels == 1 { 0 } else { 2 }, 0, 0, 0]);
    chunk(b"IHDR", &header)?;
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::default());
    for row in pixels.chunks(across * channels) {
        // Each row begins with the number of its filter. 0 stands for no filter.
        packed.write_all(&[0])?;
        packed.write_all(row)?;
    }
    chunk(b"IDAT", &packed.finish()?)?;
    chunk(b"IEND", &[])?;
    Ok(file)
}

/// The brightness of the lines between images.
const LINE: u8 = 96;
