// A node of Sparkplug B with the npm package sparkplug-client. Arguments: node_modules, port, node.
// Each line of standard input is a command, and each line of standard output says that it is done.
const { createInterface } = require('readline')
const sparkplug = require(`${process.argv[2]}/sparkplug-client`)

const [, , , port, node] = process.argv
const devices = {}
let client

function birth () {
  client.publishNodeBirth({
    timestamp: Date.now(),
    metrics: [{ name: 'Node Control/Rebirth', type: 'Boolean', value: false }]
  })
  for (const [device, metrics] of Object.entries(devices)) birthOf(device, metrics)
}

function birthOf (device, metrics) {
  client.publishDeviceBirth(device, { timestamp: Date.now(), metrics: Object.values(metrics) })
}

function run (command) {
  if (command.do === 'connect') {
    client = sparkplug.newClient({
      serverUrl: `mqtt://127.0.0.1:${port}`,
      username: '',
      password: '',
      groupId: 'Plant',
      edgeNode: node,
      clientId: node,
      version: 'spBv1.0',
      publishDeath: true
    })
    client.on('birth', birth)
    client.on('ncmd', payload => {
      if (payload.metrics.some(metric => metric.name === 'Node Control/Rebirth' && metric.value === true)) birth()
    })
    client.on('error', error => { throw error })
  } else if (command.do === 'birth') {
    devices[command.device] = {}
    for (const metric of command.metrics) devices[command.device][metric.name] = metric
    if (client) birthOf(command.device, devices[command.device])
  } else if (command.do === 'data') {
    const metrics = command.metrics.map(metric => {
      devices[command.device][metric.name] = metric
      return { alias: metric.alias, type: metric.type, value: metric.value }
    })
    client.publishDeviceData(command.device, { timestamp: Date.now(), metrics })
  } else if (command.do === 'death') {
    delete devices[command.device]
    client.publishDeviceDeath(command.device, { timestamp: Date.now() })
  } else if (command.do === 'skip') {
    client.incrementSeqNum()
  } else if (command.do === 'drop') {
    client.client.stream.destroy()
  } else if (command.do === 'stop') {
    client.stop()
  }
}

createInterface({ input: process.stdin }).on('line', line => {
  run(JSON.parse(line))
  console.log('done')
}).on('close', () => process.exit(0))
