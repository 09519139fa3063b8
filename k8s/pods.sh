# shellcheck shell=sh
# What k8s/rescale and k8s/restart have in common. Sourced by them, not run.

namespace=vigie
context=
seconds=300

usage() {
    [ $# -eq 0 ] || echo "$(basename "$0"): $*" >&2
    sed -n 's/^#   \(k8s\/.*\)/usage: \1/p' "$0" >&2
    exit 2
}

refuse() {
    echo "$(basename "$0"): vigie in $namespace: $*" >&2
    exit 1
}

options() {
    while getopts :c:n:t: option; do
        case $option in
        c) context=$OPTARG ;;
        n) namespace=$OPTARG ;;
        t) seconds=$OPTARG ;;
        :) usage "-$OPTARG needs a value" ;;
        *) usage "there is no option -$OPTARG" ;;
        esac
    done
    case $seconds in
    '' | *[!0-9]* | 0*) usage "-t is '$seconds'; give a whole number of seconds from 1" ;;
    esac
    command -v kubectl >/dev/null || refuse "there is no kubectl on PATH; install it"
}

kube() {
    kubectl ${context:+"--context=$context"} "--namespace=$namespace" "$@"
}

# Sets replicas, strategy, version and pods (VIGIE_PODS) to those of the StatefulSet, and former to the pods it has now.
find_flow() {
    found=$(kube get statefulset vigie --output=jsonpath='{.spec.replicas} {.spec.updateStrategy.type} {.metadata.resourceVersion} {.spec.template.spec.containers[?(@.name=="scorer")].env[?(@.name=="VIGIE_PODS")].value}') ||
        refuse "its StatefulSet cannot be read; give its namespace with -n, its context with -c"
    # shellcheck disable=SC2034 # used by who sources this
    read -r replicas strategy version pods <<WORDS
$found
WORDS
    former=$(kube get pods --selector="$scorers" --output=name) || refuse "its pods cannot be read"
}

# Deletes the former pods and waits until so many others are ready. Those that a rescale has just brought are right, and
# are left alone: a pod that is told to end while it starts may not hear it, and would then join the others for a while.
replace_all() {
    began=$(date +%s)
    give_up=$((began + seconds))
    # shellcheck disable=SC2086 # several words
    [ -z "$former" ] || kube delete $former --ignore-not-found --wait --timeout="${seconds}s" >/dev/null || late "$1"
    while :; do
        ready=$(kube get pods --selector="$scorers" --output=jsonpath='{range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}' | grep -c True) || [ "$ready" = 0 ] || late "$1"
        [ "$ready" -lt "$1" ] || break
        [ "$(date +%s)" -lt "$give_up" ] || late "$1"
        sleep 1
    done
    echo "all $1 are ready; scoring paused for about $(($(date +%s) - began)) s"
}

late() {
    echo "$(basename "$0"): vigie in $namespace: not all of $1 pods were ready within $seconds s; they go on trying. What they say:" \
        "kubectl -n $namespace logs --selector=$scorers --prefix --tail=20" >&2
    kube get pods --selector="$scorers" >&2 || :
    exit 3
}

scorers=app.kubernetes.io/name=vigie,app.kubernetes.io/component=scorer
