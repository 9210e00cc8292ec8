#!/bin/sh
# Makes the secrets that docker-compose.yml reads, each password random, in deploy/secrets/. Those that are there stay.
#
# The folder is closed to other users of this machine. The files in it are readable, because each container reads its own
# as a user of its own.
set -eu
cd "$(dirname "$0")"
mkdir -p secrets
chmod 700 secrets
cd secrets
umask 022

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
keep() { [ -s "$1" ] || { cat >"$1.new" && mv "$1.new" "$1"; }; }

random | keep postgres_password
random | keep rabbitmq_password
random | keep redis_password
postgres=$(cat postgres_password) rabbitmq=$(cat rabbitmq_password) redis=$(cat redis_password)

# RabbitMQ and Redis take a password from a configuration file only.
printf 'default_user = weft\ndefault_pass = %s\n' "$rabbitmq" >rabbitmq.conf
printf 'requirepass %s\nappendonly yes\nmaxmemory-policy noeviction\n' "$redis" >redis.conf

printf 'amqp://weft:%s@rabbitmq:5672/%%2f\n' "$rabbitmq" >weft_amqp_url
printf 'postgres://weft:%s@postgres:5432/weft\n' "$postgres" >weft_ledger_url
printf 'redis://:%s@redis:6379\n' "$redis" >weft_state_url
