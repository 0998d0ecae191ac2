// Asks through the AI SDK, with a tool that reads files: node ai_sdk.mjs DIALECT ADDRESS MODEL PROMPT; the key is in KEY.
import { readFile } from "node:fs/promises";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { jsonSchema, stepCountIs, streamText, tool } from "ai";

const [dialect, address, model, prompt] = process.argv.slice(2);
const settings = { name: "gateway", baseURL: `${address}/v1`, apiKey: process.env.KEY };
const provider = dialect === "anthropic" ? createAnthropic(settings) : createOpenAICompatible(settings);

const parameters = { type: "object", properties: { path: { type: "string" } }, required: ["path"] };
const read = tool({
  description: "Reads a file.",
  inputSchema: jsonSchema(parameters),
  execute: ({ path }) => readFile(path, "utf8"),
});

const answer = streamText({
  model: provider(model),
  prompt,
  tools: { read },
  stopWhen: stepCountIs(10),
  onError: ({ error }) => {
    console.error(error);
    process.exitCode = 1;
  },
});
for await (const text of answer.textStream) process.stdout.write(text);
