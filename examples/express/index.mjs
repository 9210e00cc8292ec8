// An Express app as an AWS Lambda function behind a function URL: nothing here knows of Weft.
import express from 'express';
import serverless from 'serverless-http';

const prices = { tea: 450, cup: 1200, pot: 3500 };

const app = express();
app.use(express.json());

app.get('/', (request, response) => {
  response.type('html').send('<h1>The shop</h1>');
});

app.get('/prices/:article', (request, response) => {
  const cents = prices[request.params.article];
  if (cents === undefined) response.status(404).json({ error: `there is no ${request.params.article}` });
  else response.json({ article: request.params.article, cents });
});

app.post('/quotes', (request, response) => {
  const lines = request.body?.lines ?? [];
  const unknown = lines.find(({ article }) => !(article in prices));
  if (lines.length === 0 || unknown) {
    response.status(422).json({ error: unknown ? `there is no ${unknown.article}` : 'no lines' });
    return;
  }
  const total = lines.reduce((sum, { article, quantity }) => sum + prices[article] * quantity, 0);
  console.log(`quote over ${total} cents`);
  response.status(201).cookie('quote', String(total), { httpOnly: true }).json({ total_cents: total });
});

export const handler = serverless(app);
