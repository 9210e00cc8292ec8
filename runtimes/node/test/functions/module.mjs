export const handler = async () => 'a module';
export const streamed = awslambda.streamifyResponse(async (event, stream) => {
  stream.setContentType('text/plain');
  stream.write('one ');
  stream.end('two');
});
export const page = awslambda.streamifyResponse(async (event, stream) => {
  const http = awslambda.HttpResponseStream.from(stream, { statusCode: 201, cookies: ['a=b'] });
  http.end('<p>');
});
export const broken = awslambda.streamifyResponse(async (event, stream) => {
  stream.write('half');
  throw new Error('in the middle');
});
export const unbegun = awslambda.streamifyResponse(async () => {
  throw new Error('before it began');
});
