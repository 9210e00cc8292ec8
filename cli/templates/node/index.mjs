// One event in, one answer out. What it throws is tried again, as weft.toml says.
export async function handler(event, context) {
  const name = event.data?.name ?? 'world';
  console.log(`greeting ${name}, ${context.getRemainingTimeInMillis()} ms left`);
  return { greeting: `hello ${name}` };
}
