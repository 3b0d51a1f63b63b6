// One JSON object a line in, one out, until the input ends.
import { createInterface } from "node:readline";

export async function answer(ask) {
  for await (const line of createInterface({ input: process.stdin })) {
    let answered;
    try {
      answered = await ask(JSON.parse(line));
    } catch (error) {
      // What the client makes of a refusal: the body of the answer, somewhere in its error.
      answered = { refused: error.payload ?? error.message };
    }
    process.stdout.write(JSON.stringify(answered) + "\n");
  }
}
