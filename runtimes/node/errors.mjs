// What a handler threw, as the Runtime API takes it: type, message and stack.

export function describe(thrown) {
  if (thrown instanceof Error || isErrorLike(thrown)) {
    const stack = typeof thrown.stack === 'string' ? thrown.stack.split('\n') : [];
    return { errorType: String(thrown.name || 'Error'), errorMessage: String(thrown.message), trace: stack };
  }
  return { errorType: typeof thrown, errorMessage: text(thrown), trace: [] };
}

// An error of the runtime itself, named as AWS names them.
export function named(name, message, cause = undefined) {
  const error = new Error(message, { cause });
  error.name = name;
  return error;
}

// Errors of another realm (`vm`, a worker) are no instances of this one's `Error`.
function isErrorLike(thrown) {
  return typeof thrown === 'object' && thrown !== null && typeof thrown.message === 'string' && typeof thrown.name === 'string';
}

function text(thrown) {
  if (typeof thrown === 'string') return thrown;
  try {
    return JSON.stringify(thrown) ?? String(thrown);
  } catch {
    return String(thrown);
  }
}
