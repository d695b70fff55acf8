"""What the generated reference cannot take from the code: examples, and exit codes in words.

An example shows one section below the keys that lead to it. `make reference` checks each of them
with the type of its section.
"""

from __future__ import annotations

EXIT_CODES = {
    0: "success",
    1: "the command failed, or a finding of `check` or `doctor` fails",
    2: "wrong usage, or a library of an extra is missing",
    3: "a file of the operator is not valid; nothing was sent",
    4: "a broker, a host, a container engine or another machine cannot be reached",
    5: "a measurement is not valid; its reasons are in the output",
    6: "another device or daemon has the identity of this node",
    7: "`cipherfleet-node`: valid but not enrolled (`check-config`), or not settled (`answer`)",
    8: "`cipherfleet-node run`: all rounds are done, and no neighbour answered in any of them",
    130: "interrupted by Ctrl-C or SIGTERM",
}

# Descriptions that the code words for its own readers.
DESCRIPTIONS = {
    "FleetFile": "The sections of the file.",
    "Topology": (
        "The links between the nodes. `kind` may be left out where `edges` or `file` are given. "
        "ring, line, star, grid, torus and complete have no further key; random_regular has "
        "`degree` and `seed`; erdos_renyi `probability` and `seed`; small_world `neighbours`, "
        "`probability` and `seed`; geometric `neighbours` and `seed` or positions."
    ),
}

# Keys without a comment in the code, by type and key, or by key alone.
MEANINGS = {
    "config_version": "the version of this format",
    "kind": "which of the kinds this section is",
    "limits": "per field the lowest and highest plausible value; a reading outside is dropped",
    "guards": "per field what a reading may do; one that fails is not used",
    "baud": "bits per second of the serial port",
    "parity": "of the serial port",
    "CsvSensor.decimal": "the decimal mark",
    "IioSensor.chip": "its name below /sys/bus/iio",
    "IioSensor.inputs": "the field for each input",
    "SerialSensor.format": "what the device sends: text, or frames of a dust sensor",
    "SerialSensor.fields": "where each field is in a line or a frame",
    "ModbusSensor.registers": "where each field is",
    "ModbusSensor.host": "of Modbus TCP",
    "ModbusSensor.port": "of Modbus TCP",
    "ModbusRegister.table": "which of the device's two tables",
    "ModbusRegister.type": "how the registers make a number",
    "MqttSensor.fields": "the topic of each field, and where the number is",
    "MqttSensor.host": "the name or address of the broker",
    "MqttSensor.port": "its port",
    "MqttSensor.certificate": "a client certificate",
    "MqttSensor.key": "the key of the certificate",
    "MqttSensor.user": "with `password_file`",
    "HttpSensor.fields": "the path to each field in the JSON",
    "ClockSensor.zone": "the time zone of hour and weekday",
    "PluginSensor.name": "its name in the entry point group",
    "AnswerSection.metrics": "a page for Prometheus",
    "AnswerMetrics.port": "its port",
    "timeout_s": "seconds within which the sensor must answer",
    "offset": "subtracted first",
    "scale": "then the value is divided by it",
    "FleetFile.objective": "what the fleet computes",
    "FleetFile.topology": "which nodes are neighbours",
    "FleetFile.nodes": "the nodes and their sensors",
    "FleetFile.algorithm": "rounds, accuracy and method; not given: 300 rounds of the exact method",
    "FleetFile.broker": "the MQTT broker that all nodes reach",
    "FleetFile.crypto": "keys and exchange",
    "FleetFile.answer": "where the agreed answer goes",
    "ObjectiveSection.features": "least_squares, ridge, logistic, huber: the regressor",
    "field": "the name of the field in a reading",
    "Feature.constant": "this number: an intercept",
    "Feature.harmonics": "of the day, with `daily`; not given: 1",
    "Topology.kind": "the rule that makes the graph",
    "Topology.edges": "pairs of ids",
    "NodeEntry.id": "the node's name: 1 to 63 letters, digits, - and _",
    "NodeEntry.role": "a follower takes part without readings",
    "NodeEntry.each": "so many nodes instead of one",
    "NodeEntry.owner": "who operates the node; for the privacy table of `check`",
    "CsvSensor.path": "the file, relative to fleet.yaml",
    "CsvSensor.where": "only rows whose columns have these values",
    "CsvSensor.first_rows": "with `rounds_per_row`: the rows at the start",
    "SyntheticSensor.fields": "the generated fields",
    "SyntheticSensor.seed": "of the generator",
    "SyntheticSensor.rows_per_round": "new readings in each round",
    "SyntheticField.mean": "in the field's unit",
    "SyntheticField.deviation": "standard deviation, in the field's unit",
    "ThermalSensor.zone": "its type or its number below /sys/class/thermal",
    "HwmonSensor.chip": "its name below /sys/class/hwmon",
    "HwmonSensor.inputs": "the field for each input",
    "CommandSensor.command": "the program and its arguments",
    "Algorithm.method": (
        "exact ends at the optimum; statistics too, for linear problems, in fewer rounds; article "
        "is the published iteration"
    ),
    "Algorithm.stepsize": "article, and the spread for all methods",
    "Algorithm.attenuation": "article only: how fast the coupling fades",
    "Algorithm.answer_timeout_s": "the longest wait for a neighbour's answer, in seconds",
    "Stepsize.initial": "lambda_0; article only",
    "Stepsize.decay": "article only",
    "Stepsize.exponent": "article only",
    "Stepsize.law": "of the random part of a stepsize",
    "Attenuation.scale": "0: no attenuation",
    "Attenuation.exponent": "of the round number",
    "Brokers.host": "its name or address",
    "Brokers.port": "usually 1883, with TLS 8883",
    "Brokers.tls": "must be true when nodes are on other hosts",
    "Brokers.cluster": "the hosts of linked brokers",
    "Crypto.key_bits": "below 2048 only with `allow_weak_keys`; a multiple of 16",
    "Crypto.rerandomise": "full multiplies 64 independent bases; uniform takes a full power",
    "Crypto.pool_threads": "threads that fill the pools; 0: computed when needed",
    "Crypto.allow_weak_keys": "for trials: keys below 2048 bits",
    "AnswerSection.exec_timeout_s": "seconds until the program is killed",
    "AnswerSection.mqtt": "a broker of the owner",
    "AnswerMqtt.host": "its name or address",
    "AnswerMqtt.port": "its port",
    "AnswerMqtt.certificate": "a client certificate",
    "AnswerMqtt.key": "the key of the certificate",
    "AnswerMqtt.user": "with `password_file`",
    "Privacy.delta": "the probability that epsilon does not hold",
}

EXAMPLES = {
    "FleetFile": """\
config_version: 1
fleet: office
objective: {kind: average, values: [{field: temperature_c, offset: 20, scale: 5}]}
algorithm: {rounds: 90}
topology: {kind: ring}
nodes:
  - {each: 6, id: "room{n}", sensor: {kind: thermal, zone: 0}}
""",
    "ObjectiveSection": """\
objective:
  kind: ridge
  target: {field: humidity, offset: 40, scale: 10}
  features: [{constant: 1}, {field: temperature, offset: 20, scale: 5}, {daily: hour, harmonics: 1}]
  penalty: 0.1
  window: 2000
""",
    "Column": """\
target: {field: humidity, offset: 40, scale: 10}     # 55 % becomes 1.5
""",
    "Feature": """\
features:
  - {constant: 1}
  - {field: temperature, offset: 20, scale: 5}
  - {daily: hour, harmonics: 2}
""",
    "Topology": """\
topology: {kind: random_regular, degree: 4, seed: 7}
""",
    "NodeEntry": """\
nodes:
  - each: 20
    id: "desk{n:02}"
    sensor: {kind: csv, path: readings.csv, where: {desk: "{n}"}}
    owner: facility
""",
    "CsvSensor": """\
sensor:
  kind: csv
  path: readings.csv
  where: {mote: 7}
  rows_per_round: 10
  limits: {temperature: [-20, 60]}
""",
    "SyntheticSensor": """\
sensor:
  kind: synthetic
  fields: {temperature_c: {mean: 21, deviation: 2}}
  seed: 3
""",
    "SyntheticField": """\
fields:
  temperature_c: {mean: 21, deviation: 2}
""",
    "ThermalSensor": """\
sensor: {kind: thermal, zone: cpu-thermal, limits: {temperature_c: [-20, 110]}}
""",
    "HwmonSensor": """\
sensor: {kind: hwmon, chip: lm75, inputs: {temp1_input: temperature_c}}
""",
    "CommandSensor": """\
sensor: {kind: command, command: [./read-sensor], devices: [/dev/i2c-1], timeout_s: 10}
""",
    "IioSensor": """\
sensor: {kind: iio, chip: bmp280, inputs: {temp: temperature_c, pressure: pressure_kpa}}
""",
    "OneWireSensor": """\
sensor: {kind: w1, device: 28-0316a2795eff}
""",
    "SerialSensor": """\
sensor:
  kind: serial
  device: /dev/ttyUSB0
  format: pms5003
  fields: {pm25: pm2_5}
""",
    "ModbusSensor": """\
sensor:
  kind: modbus
  host: 192.168.1.9
  registers: {temperature_c: {address: 1, scale: 0.1}}
""",
    "ModbusRegister": """\
registers:
  temperature_c: {address: 1, table: input, scale: 0.1}
""",
    "MqttSensor": """\
sensor:
  kind: mqtt
  fields: {temperature_c: {topic: zigbee2mqtt/attic, path: temperature}}
  availability: [zigbee2mqtt/attic/availability]
""",
    "MqttField": """\
fields:
  temperature_c: {topic: tele/attic/SENSOR, path: AM2301.Temperature}
""",
    "HttpSensor": """\
sensor:
  kind: http
  url: http://192.168.1.9/measures/current
  fields: {pm25: pm02}
""",
    "ClockSensor": """\
sensors:
  - {kind: clock, zone: local}
""",
    "PluginSensor": """\
sensor: {kind: plugin, name: acme-level, options: {pin: 4}}
""",
    "Guard": """\
guards:
  temperature_c: {change_per_minute: 5, stuck_after_s: 3600}
""",
    "Drift": """\
objective:
  drift: {window: 24, alarm: 4}
""",
    "AnswerMetrics": """\
answer:
  metrics: {port: 9477, values: true}
""",
    "NoSensor": """\
sensor: {kind: none}                                 # beside role: follower
""",
    "Algorithm": """\
algorithm: {rounds: 400, until: {accuracy: 0.001}, shield: linear}
""",
    "Until": """\
algorithm:
  until: {accuracy: 0.001}
""",
    "Stepsize": """\
algorithm:
  stepsize: {initial: 0.3, decay: 0.01, spread: 1}
""",
    "Attenuation": """\
algorithm:
  attenuation: {scale: 0.1, exponent: 0.81}
""",
    "Brokers": """\
broker: {host: broker.lan, port: 8883, tls: true}
""",
    "Crypto": """\
crypto: {key_bits: 3072, exchange: sealed, pool: 16}
""",
    "AnswerSection": """\
answer:
  every_s: 300
  digits: 4
  units: {pm25: ug/m3}
  exec: [/usr/local/bin/on-answer]
""",
    "AnswerMqtt": """\
answer:
  mqtt: {host: 127.0.0.1, homeassistant: true}
""",
    "Privacy": """\
privacy: {epsilon: 1, delta: 1.0e-5, readings: 500}
""",
}
