// What a program written for the OpenAI videos API does, with the official client. Address and key come from the environment.

const assert = require("node:assert/strict");
const fs = require("node:fs");
const OpenAI = require("openai");

const client = new OpenAI();

// This client has no helper that waits.
async function ended(id) {
  for (;;) {
    const video = await client.videos.retrieve(id);
    if (video.status === "completed" || video.status === "failed") return video;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

async function main() {
  const models = [];
  for await (const model of client.models.list()) models.push(model.id);
  assert.deepEqual(models, ["small"]);

  const made = await client.videos.create({
    prompt: "a cat turns its head",
    model: "small",
    size: "96x64",
    input_reference: fs.createReadStream("cat.png"),
    // Fields of FlowAI's own.
    frames: 4,
    steps: 3,
    seed: 7,
    fps: 8,
    adapters: [{ id: process.env.ADAPTER, weight: 0.5 }],
  });
  const video = await ended(made.id);
  assert.equal(video.status, "completed");
  assert.equal(video.object, "video");
  assert.equal(video.size, "96x64");
  assert.equal((await client.videos.retrieve(video.id)).id, video.id);

  const files = { video: "clip.mp4", thumbnail: "thumbnail.webp", spritesheet: "spritesheet.jpg" };
  for (const [variant, name] of Object.entries(files)) {
    const response = await client.videos.downloadContent(video.id, { variant });
    fs.writeFileSync(name, Buffer.from(await response.arrayBuffer()));
  }

  const remix = await client.videos.remix(video.id, { prompt: "the same, at night" });
  assert.equal(remix.remixed_from_video_id, video.id);
  assert.equal((await ended(remix.id)).status, "completed");

  const listed = [];
  for await (const each of client.videos.list({ limit: 1, order: "desc" })) listed.push(each.id);
  assert.deepEqual(listed, [remix.id, video.id]);
  const oldest = await client.videos.list({ limit: 1, order: "asc" });
  assert.deepEqual(oldest.data.map((each) => each.id), [video.id]);

  assert.equal((await client.videos.delete(remix.id)).deleted, true);
  await assert.rejects(client.videos.retrieve(remix.id), OpenAI.NotFoundError);

  // One that has not ended.
  const unwanted = await client.videos.create({
    prompt: "unwanted",
    size: "64x64",
    seconds: "1",
    input_reference: fs.createReadStream("cat.png"),
    steps: 100,
  });
  assert.equal(unwanted.seconds, "1");
  assert.equal((await client.videos.delete(unwanted.id)).deleted, true);
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
