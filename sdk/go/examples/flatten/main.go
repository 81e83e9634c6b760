// Makes a message of each new or changed order line: without its note, with a renamed column and two computed ones.
package main

import "PLUGIN_NAME/rowmill"

var line = rowmill.NewRecipe(`{
	"body": {
		"*": "{row_except(note, price)}",
		"unit_price": "{price}",
		"sum": "{price * quantity}",
		"day": "{date_format(created_at, '%Y-%m-%d')}"
	}
}`)

func init() {
	rowmill.Register(rowmill.Transform{
		Table: func(t *rowmill.Table) rowmill.Interest { return t.OnlyIf(t.Is("shop", "lines")) },
		Row: func(r *rowmill.Row) {
			if r.Operation != rowmill.Delete {
				r.Write(line)
			}
		},
	})
}

func main() {}
