// A front end on the AI SDK's transport, which `useChat` is built on: `node vercel.mjs ADDRESS`,
// then lines of {chat, thread, headers, history, say}. A chat keeps its messages, as a page would.
// With `resume`, nothing is said: the answer that runs is gone on with, if one does.
import { randomUUID } from "node:crypto";
import { DefaultChatTransport, isToolUIPart, getToolName, readUIMessageStream } from "ai";
import { answer } from "./lines.mjs";

const api = process.argv[2] + "/v1/vercel-ai";
const chats = new Map();

await answer(async ({ chat, thread, headers, history, say, resume }) => {
  if (!chats.has(chat)) chats.set(chat, history ?? []);
  const messages = chats.get(chat);
  if (say) {
    messages.push({ id: randomUUID(), role: "user", parts: [{ type: "text", text: say }] });
  }
  const transport = new DefaultChatTransport({ api, headers });
  const stream = resume
    ? await transport.reconnectToStream({ chatId: thread })
    : await transport.sendMessages({ chatId: thread, messages, trigger: "submit-message" });
  if (stream === null) return { text: null };
  let message;
  for await (message of readUIMessageStream({ stream, terminateOnError: true }));
  messages.push(message);
  const of = (type) => message.parts.filter((part) => part.type === type);
  return {
    text: of("text").map((part) => part.text).join(""),
    tools: message.parts.filter(isToolUIPart).map(getToolName),
    cards: of("data-card").map((part) => part.data),
    approvals: of("data-approval").map((part) => part.data),
  };
});
