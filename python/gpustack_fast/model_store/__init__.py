"""Models on this machine: fetched once, verified, and shared by every replica and every server.

    MODELS_DIR/
    └── huggingface/                     or model_scope
        ├── ORG--NAME.lock               held (flock) by whoever fetches or removes, and its child
        ├── ORG--NAME.use                held (flock, shared) by each server that runs it
        └── ORG--NAME/
            ├── pins.json                the commit that each revision (`main`) stands for
            ├── partial/HASH             files on their way, by their hash; a later try goes on here
            └── COMMIT/
                ├── manifest.json        what the hub says is in it: names, sizes, hashes
                ├── wanted.json          the patterns of files that were asked for; "": the model
                ├── heads/NAME           the first bytes of GGUF files that are not there yet
                └── files/NAME           whole and verified; what engines are given

A file comes into `files` by a rename, after its hash was compared; so what is there counts. A model
is complete when every file of its choice is. A revision is looked up once and then stands for that
commit, so that no restart changes a model by itself and a complete one needs no network; `models
pull` looks it up again.

documents      what the others hand each other
repositories   a model's settings → which repository, and which of its files
selection      a repository's files → those that an engine needs (pure)
layout         the folders above: what is there, and what it lacks
locks          who may change a repository, and who uses it
store          inspect, fetch, list, remove
downloads      the process that downloads, seen from the server
download_main  that process: it talks to a hub, and knows no server
hubs           Hugging Face and ModelScope, behind one interface
transfer       one file: its pieces, its tries, its hash
explanations   what went wrong there, in sentences
"""
