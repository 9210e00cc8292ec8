// From a handler's name to the function that it names.
//
// `folder/file.name` is the export `name` of folder/file under the task root; `file.a.b` is the member b of the export a.
// The file may be CommonJS or an ES module: .js as the nearest package.json says, .mjs, .cjs, or without an extension.

import { existsSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

import { named } from './errors.mjs';

const EXTENSIONS = ['', '.js', '.mjs', '.cjs'];

export async function load(root, handler) {
  const { file, names } = split(handler);
  const module = await open(root, file);
  let found = module;
  let owner;
  for (const name of names) {
    owner = found;
    // What CommonJS exports under a computed name is found on the default export only.
    found = found?.[name] ?? (found === module ? module.default?.[name] : undefined);
  }
  if (found === undefined) {
    throw named('Runtime.HandlerNotFound', `${handler} is undefined or not exported by ${file}`);
  }
  if (typeof found !== 'function') {
    throw named('Runtime.HandlerNotFound', `${handler} is a ${typeof found}, not a function`);
  }
  return names.length > 1 ? bound(found, owner) : found;
}

// Keeps what is written on the function, as the mark of a streaming handler.
function bound(handler, owner) {
  return Object.assign(handler.bind(owner), handler);
}

function split(handler) {
  const base = path.basename(handler);
  const dot = base.indexOf('.');
  if (handler.includes('..') || dot <= 0 || dot === base.length - 1) {
    throw named('Runtime.MalformedHandlerName', `the handler ${JSON.stringify(handler)} is not of the form file.function`);
  }
  return { file: path.join(path.dirname(handler), base.slice(0, dot)), names: base.slice(dot + 1).split('.') };
}

async function open(root, file) {
  const base = path.resolve(root, file);
  const full = EXTENSIONS.map((extension) => base + extension).find((name) => existsSync(name) && statSync(name).isFile());
  try {
    if (full === undefined) {
      // A package of that name, or a folder with an index.
      return createRequire(path.join(root, 'noop.js'))(base);
    }
    // A file without an extension is CommonJS to `import` only where no package.json says otherwise.
    return path.extname(full) === '' ? createRequire(full)(full) : await import(pathToFileURL(full).href);
  } catch (error) {
    if (error?.code === 'MODULE_NOT_FOUND' && full === undefined) {
      throw named('Runtime.ImportModuleError', `no file ${file} with .js, .mjs or .cjs under ${root}`, error);
    }
    if (error instanceof SyntaxError) throw named('Runtime.UserCodeSyntaxError', `${error.message}\n${error.stack}`, error);
    if (error?.code === 'ERR_MODULE_NOT_FOUND' || error?.code === 'MODULE_NOT_FOUND') {
      throw named('Runtime.ImportModuleError', error.message, error);
    }
    throw error;
  }
}
