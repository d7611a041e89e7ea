#!/bin/sh
# Writes the secrets of docker-compose.yml, each into a file of its own below deploy/secrets. Run it once, before the
# first start: what is there already stays as it is, because a database keeps the password it was made with.
set -eu
umask 077
folder=$(dirname "$0")/secrets
mkdir -p "$folder"

random() { head -c "$1" /dev/urandom | base64 | tr -d '\n' | tr '+/' '-_'; }
hex() { head -c "$1" /dev/urandom | od -An -tx1 | tr -d ' \n'; }

write() {
    if [ -e "$folder/$1" ]; then
        echo "kept    $folder/$1"
        return
    fi
    printf '%s\n' "$2" > "$folder/$1"
    # Containers read them as users of their own. The folder keeps everybody else on this host out.
    chmod 444 "$folder/$1"
    echo "written $folder/$1"
}

write secret_key "$(random 48)"
# Several, separated by commas: the first encrypts, all decrypt. Losing them loses the stored secrets: keep a copy
# elsewhere, and not beside the database's backup.
write encryption_keys "$(random 32)"
write postgres_password "$(hex 16)"
write rabbitmq_password "$(hex 16)"
write flower_password "$(hex 16)"
postgres=$(cat "$folder/postgres_password")
rabbitmq=$(cat "$folder/rabbitmq_password")
write database_url "postgresql://upbeat:$postgres@postgres:5432/upbeat"
write broker_url "amqp://upbeat:$rabbitmq@rabbitmq:5672/%2F"
write rabbitmq.conf "default_user = upbeat
default_pass = $rabbitmq"
