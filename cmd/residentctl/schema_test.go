package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"testing"

	generate "github.com/invopop/jsonschema"
	"github.com/rogpeppe/go-internal/testscript"
	validate "github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/residentctl/residentctl/pkg/resident"
)

// schemaFile is the schema of all that --format json prints. `make generate` writes it.
const schemaFile = "../../docs/output.schema.json"

// outputs are what the commands print, by the name in the schema. What run and exec print
// is the program's own; env and help print no JSON.
var outputs = map[string]any{
	"add":        []addResult{},
	"apply":      applyResult{},
	"check":      []resident.Finding{},
	"disable":    []disabled{},
	"enable":     []enableResult{},
	"error":      report{}, // on standard error
	"gc":         resident.GCResult{},
	"gc-dry-run": resident.GCPlan{},
	"inspect":    inspection{},
	"list":       []*record{},
	"list-quiet": []string{},
	"purge":      purged{},
	"refresh":    []refreshed{},
	"remove":     []*record{},
	"status":     []enabledIn{},
	"verify":     []verifyResult{},
	"version":    versions{},
	"which":      []whichResult{},
}

// schema is made from the types. Later versions may have more fields, which a strict one
// does not let pass.
func schema(strict bool) ([]byte, error) {
	r := &generate.Reflector{
		AllowAdditionalProperties: !strict,
		Mapper: func(of reflect.Type) *generate.Schema {
			if of == reflect.TypeFor[resident.Address]() {
				return &generate.Schema{Type: "string", Pattern: "^0x[0-9a-f]+$"}
			}
			return nil
		},
	}
	defs := map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(outputs)) {
		of := r.Reflect(outputs[name])
		for typeName, def := range of.Definitions {
			defs["type-"+typeName] = def
		}
		of.Definitions, of.Version, of.ID = nil, "", ""
		defs[name] = of
	}
	text, err := json.MarshalIndent(map[string]any{
		"$schema": generate.Version, "title": "Output of residentctl --format json, by command",
		"version": outputVersion, "$defs": defs,
	}, "", "  ")
	text = bytes.ReplaceAll(text, []byte(`"#/$defs/`), []byte(`"#/$defs/type-`))
	return append(text, '\n'), err
}

func TestSchemaIsCurrent(t *testing.T) {
	want, err := schema(false)
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(schemaFile, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what the types say; run `make generate`", schemaFile)
	}
}

// fits is the error of a text that is not what the schema, taken strictly, says of an
// output.
func fits(text []byte, output string) error {
	strict, err := schema(true)
	if err != nil {
		return err
	}
	doc, err := validate.UnmarshalJSON(bytes.NewReader(strict))
	if err != nil {
		return err
	}
	c := validate.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("schema.json", doc); err != nil {
		return err
	}
	s, err := c.Compile("schema.json#/$defs/" + output)
	if err != nil {
		return err
	}
	value, err := validate.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return err
	}
	return s.Validate(value)
}

// The schema says something: it does not let everything pass.
func TestSchemaRefuses(t *testing.T) {
	for output, text := range map[string]string{
		"list":    `[{"program": "/p", "state": 1}]`,
		"remove":  `[{"program": "/p", "state": "sold"}]`,
		"add":     `[{"outcome": "added"}]`,
		"inspect": `{"program": "/p", "state": "current"}`,
		"refresh": `[{"program": "/p", "record": {"program": "/p", "state": "none", "binary": {"dev": 1, "ino": "1", "size": 1, "mtime_ns": "1", "ctime_ns": "1"}}, "current": true, "renewed": false, "gone": false}]`,
	} {
		if fits([]byte(text), output) == nil {
			t.Errorf("%s: %s passes", output, text)
		}
	}
}

// schemaCommand is `schema OUTPUT FILE` in scripts: the file must be what the schema says.
func schemaCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: schema OUTPUT FILE")
	}
	if err := fits([]byte(ts.ReadFile(args[1])), args[0]); err != nil {
		ts.Fatalf("%v", fmt.Errorf("%s: %w", args[0], err))
	}
}
