// A front end on AG-UI's own client: `node agui.mjs ADDRESS`, then lines of
// {chat, thread, headers, history, say, resume}. A chat keeps its messages, as a page would.
import { randomUUID } from "node:crypto";
import { HttpAgent } from "@ag-ui/client";
import { answer } from "./lines.mjs";

const url = process.argv[2] + "/v1/agui";
const agents = new Map();
// It logs what it throws.
console.error = () => {};

await answer(async ({ chat, thread, headers, history, say, resume }) => {
  if (!agents.has(chat)) {
    agents.set(chat, new HttpAgent({ url, headers, threadId: thread, initialMessages: history }));
  }
  const agent = agents.get(chat);
  if (say) agent.addMessage({ id: randomUUID(), role: "user", content: say });
  const told = { tools: [], cards: [], approvals: [] };
  const { newMessages } = await agent.runAgent(resume ? { resume } : {}, {
    onToolCallEndEvent: ({ toolCallName }) => told.tools.push(toolCallName),
    onCustomEvent: ({ event }) =>
      event.name === "approval" ? told.approvals.push(event.value) : told.cards.push(event.value),
    onRunErrorEvent: ({ event }) => (told.error = event.message),
  });
  const said = newMessages.filter((message) => message.role === "assistant");
  return { ...told, text: said.map((message) => message.content ?? "").join("") };
});
