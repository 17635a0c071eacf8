-- What plain text has no form for: tables become lines with a tab between cells, pictures nothing, a rule three stars.
local function row_lines(rows, lines)
  for _, row in ipairs(rows) do
    local line = pandoc.Inlines {}
    for number, cell in ipairs(row.cells) do
      if number > 1 then line:insert(pandoc.Str "\t") end
      line:extend(pandoc.utils.blocks_to_inlines(cell.contents, {pandoc.Space()}))
    end
    lines:insert(line)
  end
end

local function unbroken(inlines)
  return inlines:walk {LineBreak = pandoc.Space, SoftBreak = pandoc.Space}
end

function Table(table)
  local lines = pandoc.List {}
  row_lines(table.head.rows, lines)
  for _, body in ipairs(table.bodies) do
    row_lines(body.head, lines)
    row_lines(body.body, lines)
  end
  row_lines(table.foot.rows, lines)
  return table.caption.long .. {pandoc.LineBlock(lines:map(unbroken))}
end

function HorizontalRule() return pandoc.Para {pandoc.Str "* * *"} end
function Image() return {} end
function SmallCaps(inline) return inline.content end
function Strikeout(inline) return inline.content end
