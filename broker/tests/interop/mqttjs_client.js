// One scenario against a broker, with MQTT.js. Arguments: port, 4 or 5, and a URL without its port (mqtt://127.0.0.1). Exit code 0 if all held.
'use strict'

const assert = require('node:assert')
const mqtt = require('mqtt')

const port = Number(process.argv[2])
const protocolVersion = Number(process.argv[3])
const login = { username: 'ada', password: 'secret' }
const options = (clientId, more) => ({ protocolVersion, clientId, reconnectPeriod: 0, connectTimeout: 30000, ...login, ...more })
const url = new URL(process.argv[4] ?? 'mqtt://127.0.0.1')
url.port = port

setTimeout(() => { console.error('timed out'); process.exit(2) }, 60000).unref()

async function open (clientId, more) {
  const client = await mqtt.connectAsync(url.href, options(clientId, more), false)
  const queue = []
  const waiting = []
  client.on('message', (topic, payload, packet) => {
    const message = { topic, payload: payload.toString(), packet }
    const first = waiting.shift()
    if (first) first(message)
    else queue.push(message)
  })
  client.on('error', () => {})
  client.next = () => queue.length ? Promise.resolve(queue.shift()) : new Promise(resolve => waiting.push(resolve))
  return client
}

async function granted (client, topic, qos) {
  try {
    const [grant] = await client.subscribeAsync(topic, { qos })
    return grant.qos
  } catch (error) {
    return 128
  }
}

async function main () {
  await assert.rejects(open('refused', { password: 'wrong' }))

  const subscriber = await open('subscriber')
  assert.strictEqual(await granted(subscriber, 't/#', 2), 2)
  assert.ok(await granted(subscriber, 'secret/#', 0) >= 128)

  const publisher = await open('publisher', { will: { topic: 't/will', payload: 'gone', qos: 1, retain: false } })
  for (const qos of [0, 1, 2]) await publisher.publishAsync(`t/${qos}`, `payload ${qos}`, { qos, retain: qos === 1 })
  for (const qos of [0, 1, 2]) {
    const { topic, payload, packet } = await subscriber.next()
    assert.deepStrictEqual([topic, payload, packet.qos, packet.retain], [`t/${qos}`, `payload ${qos}`, qos, false])
  }

  const denied = publisher.publishAsync('denied/x', 'no', { qos: 1 })
  if (protocolVersion === 5) await assert.rejects(denied)
  else await denied

  const late = await open('late')
  assert.strictEqual(await granted(late, 't/+', 1), 1)
  const kept = await late.next()
  assert.deepStrictEqual([kept.topic, kept.payload, kept.packet.retain], ['t/1', 'payload 1', true])

  if (protocolVersion === 5) {
    const properties = { contentType: 'text/plain', userProperties: { key: 'value' }, responseTopic: 'answers' }
    await publisher.publishAsync('t/p', 'rich', { qos: 1, properties })
    const got = (await subscriber.next()).packet.properties
    assert.deepStrictEqual([got.contentType, { ...got.userProperties }, got.responseTopic], ['text/plain', { key: 'value' }, 'answers'])
  }

  publisher.stream.destroy()
  let message = await subscriber.next()
  while (message.topic !== 't/will') message = await subscriber.next()
  assert.strictEqual(message.payload, 'gone')
  await Promise.all([subscriber.endAsync(), late.endAsync()])
  console.log('ok')
}

main().then(() => process.exit(0), error => { console.error(error); process.exit(1) })
