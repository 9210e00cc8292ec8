// A thumbnail of a picture, as a function for AWS Lambda: nothing here knows of Weft.
import sharp from 'sharp';

const FORMATS = ['jpeg', 'png', 'webp', 'gif'];

export async function thumbnail({ name, image, width = 160 }, context) {
  const picture = sharp(Buffer.from(image, 'base64'), { limitInputPixels: 50_000_000 });
  const { format, width: before } = await picture.metadata();
  if (!FORMATS.includes(format)) throw new UnsupportedFormat(`${name} is ${format}`);
  const { data, info } = await picture
    .rotate() // as the camera was held
    .resize({ width, withoutEnlargement: true })
    .webp({ quality: 80 })
    .toBuffer({ resolveWithObject: true });
  console.log(`${name}: ${before} to ${info.width} pixels, ${context.getRemainingTimeInMillis()} ms left`);
  return { name, format: info.format, width: info.width, height: info.height, bytes: info.size, image: data.toString('base64') };
}

class UnsupportedFormat extends Error {
  name = 'UnsupportedFormat';
}
