#!/bin/sh
# Makes the accounts of a pool's RabbitMQ: users.sh FOLDER, as root on one node, and again after a change. Each password is in
# a file named after its account in FOLDER, and is made if that file does not exist.
#
# Permissions are regular expressions. Those of resources name queues and exchanges: configure, write, read. Those of topics
# name routing keys of amq.topic, which are MQTT topics with "." for "/" and "*" for "+": write, read. RabbitMQ puts the
# account's name for {username}. An account without permissions of topics may use them all, so each has some.
set -eu
folder=$1
root='edgeai\.v1'
site=hall1
# The queues of pools, and their topics.
pool="^$root\.$site\.pool\."

account() {  # NAME CONFIGURE WRITE READ TOPIC_WRITE TOPIC_READ
  echo "account $1"
  test -s "$folder/$1" || (umask 077 && openssl rand -hex 24 > "$folder/$1")
  # With a further argument, such as --quiet, these two would not read the password from the input.
  if rabbitmqctl --quiet list_users | cut -f 1 | grep -qxF -- "$1"; then
    rabbitmqctl change_password "$1" < "$folder/$1" > /dev/null
  else
    rabbitmqctl add_user "$1" < "$folder/$1" > /dev/null
  fi
  rabbitmqctl --quiet set_permissions "$1" "$2" "$3" "$4"
  rabbitmqctl --quiet set_topic_permissions "$1" amq.topic "$5" "$6"
}

# A board speaks for itself and for its pool, and replies to any client. It takes requests from the pool's queues and may
# not change them. Each MQTT client makes a queue of its own, mqtt-subscription-CLIENT, binds it to amq.topic and reads it.
# For a task with `subscribe` and `publish`, add those topics: |^plant\.[^.]+\.vibration$ to read, |^plant\.[^.]+\.triage$.
for board in press-04 press-05; do
  queues="^mqtt-subscription-($site\.$board\.|(ask|command|diag|watch)-)"
  account "$board" "$queues" "$queues|^amq\.topic$" "$queues|^amq\.topic$|$pool" \
    "^$root\.$site\.{username}\.|${pool}[^.]+\.infer\.[^.]+\.(response|error)|^$root\.reply\." \
    "^$root\.$site\.{username}\.|^$root\.reply\.ask\."
done

# Sensors ask pools, read the answers and send feedback to the board that answered. Open port 5671 to boards and plant-admin alone: by AMQP these accounts could read
# what waits for other MQTT clients.
queues='^mqtt-subscription-'
# Without the pattern for task names, one long name would disconnect each board that gets it: AMQP carries 255 bytes of a topic.
ask="${pool}[^.]+\.infer\.[A-Za-z0-9_-]{1,64}\.request$|^$root\.$site\.[^.]+\.infer\.[^.]+\.feedback$"
answers="${pool}[^.]+\.infer\.[^.]+\.(response|error)"
for sensor in sensor; do
  account "$sensor" "$queues" "$queues|^amq\.topic$" "$queues|^amq\.topic$" "$ask" \
    "$answers|^$root\.reply\.({username}|ask)\."
done

# A plant's mosquitto, for sensors that publish there (../mosquitto/pool-bridge.conf).
account bridge "$queues" "$queues|^amq\.topic$" "$queues|^amq\.topic$" "$ask" "$answers|^$root\.reply\.#$"

# Looks at the site with `edge-agent watch`, `edge-agent pool status` and dashboards.
account monitoring "$queues" "$queues" "$queues|^amq\.topic$" \
  '^$' "^$root\.$site\.[^.]+\.(state|info|health|alarm|event)"

# For `edge-agent web`, which shows what boards say and answer, asks them and pools, and sends people's feedback.
account web "$queues" "$queues|^amq\.topic$" "$queues|^amq\.topic$" \
  "$ask|^$root\.$site\.[^.]+\.infer\.[A-Za-z0-9_-]{1,64}\.request$" "^$root\.$site\.|^$root\.reply\."

# Commands boards, asks them, and clears what a removed board has left retained.
account operator "$queues" "$queues|^amq\.topic$" "$queues|^amq\.topic$" \
  "^$root\.$site\.[^.]+\.(cmd\.[^.]+|infer\.[^.]+\.(request|feedback)|state|info|health|alarm\.[^.]+)$" \
  "^$root\.$site\.|^$root\.reply\.ask\."

# Makes a pool's queues, binds them to its requests, and lets what is dead go to the queue of dead letters by amq.default.
account plant-admin "$pool" "$pool|^amq\.default$" "$pool|^amq\.topic$" '^$' "${pool}[^.]+\.infer\.\*\.request$"

# RabbitMQ makes it at the first start, with a known password.
if rabbitmqctl --quiet list_users | cut -f 1 | grep -qxF guest; then rabbitmqctl --quiet delete_user guest; fi
