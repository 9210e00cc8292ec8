// Prints an event's data with a picture in it: node picture.mjs > picture.json
import sharp from 'sharp';

const [width, height] = [640, 480];
const pixels = Buffer.alloc(width * height * 3);
for (let y = 0; y < height; y += 1) {
  for (let x = 0; x < width; x += 1) pixels.set([(255 * x) / width, (255 * y) / height, 128], 3 * (y * width + x));
}
const image = await sharp(pixels, { raw: { width, height, channels: 3 } }).jpeg().toBuffer();
process.stdout.write(JSON.stringify({ name: 'sunset.jpg', image: image.toString('base64'), width: 160 }));
