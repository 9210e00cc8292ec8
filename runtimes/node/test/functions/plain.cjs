const { setTimeout: wait } = require('node:timers/promises');
let calls = 0;
exports.echo = async (event, context) => ({ event, id: context.awsRequestId, left: context.getRemainingTimeInMillis() > 0, calls: ++calls });
exports.callback = (event, context, callback) => setTimeout(() => callback(null, { by: 'callback' }), 5);
exports.early = (event, context, callback) => {
  context.callbackWaitsForEmptyEventLoop = false;
  setTimeout(() => {}, 60_000);
  callback(null, 'early');
};
exports.silent = () => {};
exports.stuck = async () => new Promise(() => {});
exports.throwing = async () => {
  throw new RangeError('out of it');
};
exports.text = async () => {
  throw 'just text';
};
exports.circular = async () => {
  const self = {};
  self.self = self;
  return self;
};
exports.uncaught = async () => {
  setTimeout(() => {
    throw new Error('nobody waits');
  }, 1);
  await wait(60_000);
};
exports.rejected = async () => {
  Promise.reject(new TypeError('nobody awaits'));
  await wait(60_000);
};
exports.large = async () => 'x'.repeat(1024);
exports.nested = { deep: { call: async () => 'deep' } };
exports.trace = async () => process.env._X_AMZN_TRACE_ID;
exports.log = async () => console.log('two\nlines');
exports.meet = async (event) => {
  globalThis.here = (globalThis.here ?? 0) + 1;
  while (globalThis.here < event.many) await wait(1);
  return globalThis.here;
};
exports.number = 7;
